"""Seeds: the labels of the pixels of which class activation maps are sure."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..errors import UserError
from ..layers import UNKNOWN, CRFSettings, dense_crf_from_labels, dense_crf_from_scores

#: Published settings of the dense CRF.
CONFIDENT_SEEDS_CRF = CRFSettings()
ALPHA_SEEDS_CRF = CRFSettings(bilateral_sxy=80.0, bilateral_srgb=13.0)


def confident_seeds(
    image: np.ndarray | Tensor,
    cam: np.ndarray | Tensor,
    class_ids: np.ndarray | Tensor,
    fg_threshold: float = 0.30,
    bg_threshold: float = 0.05,
    crf: CRFSettings | None = CONFIDENT_SEEDS_CRF,
) -> np.ndarray | Tensor:
    """IRNet's seeds (Ahn et al., CVPR 2019, section 4.1).

    The class of highest CAM where that is above a threshold, else background: once with a high
    threshold, once with a low one, each refined by the dense CRF. A pixel has the class of the
    first map; where that says background, it is background if the second says so too, else unknown.

    Args:
        image: (H, W, 3) uint8 RGB.
        cam: (C, H, W) in [0, 1] at the image's size.
        class_ids: (C,) contiguous ids of the maps' classes.
        fg_threshold: the high threshold.
        bg_threshold: the low threshold.
        crf: settings of the dense CRF; None: the thresholded CAMs as they are.

    Returns:
        (H, W) uint8: 0 background, c + 1 class c, 255 unknown; an array where ``cam`` is one, else
        a tensor on its device.

    Raises:
        ValueError: wrong shapes or types.
    """
    maps, labels = _check_cam(cam, class_ids)

    highest, best = maps.max(0)
    thresholds = maps.new_tensor([fg_threshold, bg_threshold])[:, None, None]
    winners = torch.where(highest > thresholds, best + 1, 0)
    if crf is not None:
        winners = dense_crf_from_labels(image, winners, len(labels), crf)
    return _combine(*labels[winners], cam)


def alpha_seeds(
    image: np.ndarray | Tensor,
    cam: np.ndarray | Tensor,
    class_ids: np.ndarray | Tensor,
    low_alpha: float = 4.0,
    high_alpha: float = 32.0,
    crf: CRFSettings | None = ALPHA_SEEDS_CRF,
) -> np.ndarray | Tensor:
    """AffinityNet's seeds (Ahn and Kwak, CVPR 2018, section 3.2).

    The background's score is (1 - max_c M_c)^alpha beside the CAMs M_c. A low alpha amplifies it:
    what is still foreground then is a seed of its class. A high alpha weakens it: what is still
    background then is a seed of the background.

    Args:
        image, cam, class_ids: see :func:`confident_seeds`.
        low_alpha, high_alpha: exponents of the background's score.
        crf: settings of the dense CRF; None: the highest score at each pixel.

    Returns:
        (H, W) uint8; see :func:`confident_seeds`.

    Raises:
        ValueError: wrong shapes or types.
    """
    maps, labels = _check_cam(cam, class_ids)

    background = (1 - maps.amax(0)).clamp(min=0)
    scores = torch.stack(
        [torch.cat([background[None] ** alpha, maps]) for alpha in (low_alpha, high_alpha)]
    )
    if crf is not None:
        scores = dense_crf_from_scores(image, scores, crf)
    return _combine(*labels[scores.argmax(1)], cam)


def crf_settings(cfg: CfgNode) -> CRFSettings | None:
    """The settings ``cfg.DENSE_CRF``; None where it is switched off."""
    settings = {key.lower(): value for key, value in cfg.DENSE_CRF.items()}
    enabled = settings.pop("enabled")
    return CRFSettings(**settings) if enabled else None


def build_seed_function(cfg: CfgNode) -> partial:
    """The method and settings of ``cfg.SEEDS`` and ``cfg.DENSE_CRF``.

    Returns:
        :func:`confident_seeds` or :func:`alpha_seeds`, a function of image, cam and class_ids.

    Raises:
        UserError: SEEDS.METHOD is no method.
    """
    seeds, crf = cfg.SEEDS, crf_settings(cfg)
    if seeds.METHOD == "confident":
        thresholds = {"fg_threshold": seeds.FG_THRESHOLD, "bg_threshold": seeds.BG_THRESHOLD}
        return partial(confident_seeds, **thresholds, crf=crf)
    if seeds.METHOD == "alpha":
        alphas = {"low_alpha": seeds.LOW_ALPHA, "high_alpha": seeds.HIGH_ALPHA}
        return partial(alpha_seeds, **alphas, crf=crf)
    raise UserError(f"SEEDS.METHOD is '{seeds.METHOD}': choose 'confident' or 'alpha'")


def _check_cam(cam: np.ndarray | Tensor, class_ids: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """The CAMs, and the labels of the background and of each map, on their device."""
    maps = torch.as_tensor(cam).detach()
    ids = torch.as_tensor(class_ids, device=maps.device)
    if maps.ndim != 3 or ids.shape != maps.shape[:1] or not len(ids):
        raise ValueError(
            f"cam must be (C, H, W) and class_ids (C,) with C > 0, got {tuple(maps.shape)} and "
            f"{tuple(ids.shape)}"
        )
    return maps, torch.cat([ids.new_zeros(1), ids + 1]).to(torch.uint8)


def _combine(
    sure_foreground: Tensor, any_foreground: Tensor, cam: np.ndarray | Tensor
) -> np.ndarray | Tensor:
    """(H, W) uint8 seeds from the labels of the strict and of the generous run."""
    unsure = (sure_foreground == 0) & (any_foreground > 0)
    seeds = sure_foreground.masked_fill(unsure, UNKNOWN)
    return seeds if isinstance(cam, Tensor) else seeds.numpy()
