"""Dense CRF: labels that follow the edges of the image.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011: mean-field inference with a smoothness kernel over positions and an
appearance kernel over positions and colours (section 4, eq. 3), by their library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class CRFSettings:
    """Settings of the inference; the defaults are IRNet's published ones.

    Attributes:
        num_iters: iterations of the mean field.
        gaussian_sxy: standard deviation of the smoothness kernel, in pixels.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation of the appearance kernel in space, in pixels.
        bilateral_srgb: its standard deviation in colour, in gray levels (0 to 255).
        bilateral_compat: its weight.
        gt_prob: probability that a hard label is right, in (0, 1).
    """

    num_iters: int = 10
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    gt_prob: float = 0.7


def dense_crf_from_labels(
    image: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    num_labels: int,
    settings: CRFSettings | None = None,
) -> np.ndarray | Tensor:
    """Refine a map of hard labels, each of which is right with probability ``gt_prob``.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int in 0 .. num_labels - 1; or (N, H, W), several maps of the one image, each
            refined by itself: the kernels, half of the work, are then made once.
        num_labels: number of labels.
        settings: of the CRF; None: IRNet's.

    Returns:
        int64 labels of the same shape: an array for an array, a CPU tensor for a tensor.

    Raises:
        ValueError: wrong shapes, types or labels.
        UserError: pydensecrf is not installed.
    """
    settings = settings or CRFSettings()
    label_array = _to_numpy(labels)
    if label_array.ndim not in (2, 3):
        raise ValueError(f"labels must be (H, W) or (N, H, W), got {label_array.shape}")
    image = _check_image(image, label_array.shape[-2:])
    if label_array.dtype.kind not in "iu" or not 0 <= label_array.min() <= label_array.max() < (
        num_labels
    ):
        raise ValueError(f"labels must be integers in 0 .. {num_labels - 1}")
    if num_labels == 1:
        refined = np.zeros(label_array.shape, np.int64)
    else:
        wrong = (1 - settings.gt_prob) / (num_labels - 1)
        right = label_array[..., None, :, :] == np.arange(num_labels)[:, None, None]
        probabilities = _infer(image, np.where(right, settings.gt_prob, wrong), settings)
        refined = probabilities.argmax(-3)
    return torch.from_numpy(refined) if isinstance(labels, Tensor) else refined


def dense_crf_from_scores(
    image: np.ndarray | Tensor,
    scores: np.ndarray | Tensor,
    settings: CRFSettings | None = None,
) -> np.ndarray | Tensor:
    """Refine a score of each label at each pixel.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (L, H, W) float in [0, 1], taken as probabilities and clipped to [1e-5, 1]; they
            need not add up to 1. Or (N, L, H, W), see :func:`dense_crf_from_labels`.
        settings: of the CRF; None: IRNet's.

    Returns:
        float32 probabilities of the same shape that add up to 1 over the labels: an array for an
        array, a CPU tensor for a tensor.

    Raises:
        ValueError: wrong shapes or types.
        UserError: pydensecrf is not installed.
    """
    score_array = _to_numpy(scores)
    if score_array.ndim not in (3, 4):
        raise ValueError(f"scores must be (L, H, W) or (N, L, H, W), got {score_array.shape}")
    image = _check_image(image, score_array.shape[-2:])
    refined = _infer(image, score_array.clip(1e-5, 1), settings or CRFSettings())
    return torch.from_numpy(refined) if isinstance(scores, Tensor) else refined


def _infer(image: np.ndarray, probabilities: np.ndarray, settings: CRFSettings) -> np.ndarray:
    """Mean-field inference from (L, H, W) or (N, L, H, W) probabilities above 0."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise UserError(
            "the dense CRF needs the package pydensecrf: pip install pydensecrf2, or set "
            "DENSE_CRF.ENABLED False"
        ) from error
    num_labels, height, width = probabilities.shape[-3:]
    crf = DenseCRF2D(width, height, num_labels)
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=image,
        compat=settings.bilateral_compat,
    )
    unaries = -np.log(probabilities.reshape(-1, num_labels, height * width)).astype(np.float32)
    refined = np.empty_like(unaries)
    for unary, result in zip(np.ascontiguousarray(unaries), refined):
        crf.setUnaryEnergy(unary)
        result[:] = crf.inference(settings.num_iters)
    return refined.reshape(probabilities.shape)


def _check_image(image: np.ndarray | Tensor, size: tuple[int, ...]) -> np.ndarray:
    image = _to_numpy(image)
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image must be (H, W, 3) uint8 of the labels' size {size}, got {image.shape} "
            f"{image.dtype}"
        )
    # The library takes writable, contiguous memory only.
    return np.array(image, order="C")


def _to_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
