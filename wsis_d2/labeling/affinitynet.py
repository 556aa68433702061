"""AffinityNet: semantic labels from CAMs that walk along semantic affinities (CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from torch import Tensor

from ..layers import CRFSettings, dense_crf_from_scores, feature_affinity, random_walk
from .cam_files import full_size_cam
from .cam_folder import CAMFolder
from .detect import detect_instances
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator
from .optimize import optimize_for_inference
from .seeds import crf_settings
from .walk_settings import walk_settings


@dataclass
class AffinityNetCues:
    """What led to the labels of one image; h x w is the network's stride-8 grid.

    Attributes:
        cam: (C, H, W) float in [0, 1], CAMs of the labelled classes at full size.
        class_ids: (C,) int64, their contiguous ids.
        features: (F, h, w) float, affinity features.
        scores_before: (1 + C, h, w) float in [0, 1], background and CAMs before the walk.
        scores_after: (1 + C, h, w) float, at least 0, after the walk.
        sem_seg_before_crf: (H, W) uint8 label map: the highest score at each pixel.
    """

    cam: Tensor
    class_ids: Tensor
    features: Tensor
    scores_before: Tensor
    scores_after: Tensor
    sem_seg_before_crf: Tensor


def background_and_classes(cam: Tensor, alpha: float) -> Tensor:
    """(1 + C, H, W) scores: the background's (1 - max_c M_c)^alpha, then the CAMs (section 3.2)."""
    return torch.cat([(1 - cam.amax(0, keepdim=True)).clamp(min=0) ** alpha, cam])


def walk_semantic_scores(
    scores: Tensor,
    features: Tensor,
    *,
    stride: int = 8,
    radius: int = 5,
    beta: float = 8.0,
    num_steps: int = 256,
    method: str = "auto",
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Average scores over the network's cells and let them walk (section 3.4).

    Args:
        scores: (K, H, W) float.
        features: (F, h, w) float with h = ceil(H / stride), w = ceil(W / stride).
        stride: pixels per cell.
        radius, beta, num_steps, method, tolerance: see :func:`wsis_d2.layers.random_walk` and
            :func:`wsis_d2.layers.feature_affinity`.

    Returns:
        The scores before and after the walk, (K, h, w) each.
    """
    height, width = scores.shape[1:]
    padding = (0, -width % stride, 0, -height % stride)
    before = F.avg_pool2d(F.pad(scores, padding), stride)
    affinity = feature_affinity(features, radius)
    return before, random_walk(before, affinity, beta, num_steps, method, tolerance=tolerance)


@LABEL_GENERATOR_REGISTRY.register()
class AffinityNetLabels(LabelGenerator):
    """Semantic labels of a trained :class:`wsis_d2.modeling.AffinityNet`.

    The method knows no instances: they are the connected pieces of each class.

    Args:
        network: the AffinityNet.
        cams: CAMs of the images.
        image_format: channel order of the input images.
        alpha: exponent of the background score that takes part in the walk.
        crf: settings of the dense CRF on the walk's result; None: none.
        min_area: pieces below this fraction of the image are no instances.
        walk_options: see :func:`walk_semantic_scores`.
    """

    gives_label_maps = True

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        cams: CAMFolder,
        image_format: str,
        alpha: float,
        crf: CRFSettings | None,
        min_area: float,
        walk_options: dict,
    ):
        super().__init__()
        self.network = network
        self.cams = cams
        self.image_format = image_format
        self.alpha = alpha
        self.crf = crf
        self.min_area = min_area
        self.walk_options = walk_options

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``INPUT.FORMAT``, ``CAM``, ``DENSE_CRF`` and ``PSEUDO_LABELS``."""
        labels = cfg.PSEUDO_LABELS
        return {
            "network": build_model(cfg),
            "cams": CAMFolder(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "alpha": labels.AFFINITYNET.ALPHA,
            "crf": crf_settings(cfg) if labels.AFFINITYNET.REFINE else None,
            "min_area": labels.AFFINITYNET.MIN_AREA,
            "walk_options": {"stride": cfg.MODEL.AFFINITYNET.STRIDE, **walk_settings(cfg)},
        }

    def optimize(self) -> None:
        """See :meth:`LabelGenerator.optimize`."""
        optimize_for_inference(self.network)

    def label(self, x: dict) -> dict:
        """See :meth:`LabelGenerator.label`; the cues are :class:`AffinityNetCues`."""
        features = self.network([x])[0]["features"]
        cam, class_ids = self.cams.get(x)
        size = (x["height"], x["width"])
        cam = full_size_cam(cam, size, self.cams.stride).to(features.device)
        scores = background_and_classes(cam, self.alpha)
        before, after = walk_semantic_scores(scores, features, **self.walk_options)
        probabilities = self._upsample(after, size)
        winners = probabilities.argmax(0)
        labels = torch.cat([class_ids.new_zeros(1), class_ids + 1]).to(torch.uint8)
        cues = AffinityNetCues(cam, class_ids, features, before, after, labels[winners.cpu()])
        if self.crf is not None:
            image = x["image"][[2, 1, 0]] if self.image_format == "BGR" else x["image"]
            image = image.permute(1, 2, 0).to(torch.uint8)
            probabilities = dense_crf_from_scores(image, probabilities, self.crf)
            winners = probabilities.argmax(0)
        best = probabilities.gather(0, winners[None])[0]
        return {
            "instances": detect_instances(winners, best, class_ids, self.min_area),
            "sem_seg_labels": labels[winners.cpu()],
            "cues": cues,
        }

    def evidence(self, x: dict, output: dict) -> tuple[Tensor, Tensor]:
        """See :meth:`LabelGenerator.evidence`: the CAMs."""
        return output["cues"].cam, output["cues"].class_ids

    def _upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(K, h, w) scores to (K, H, W) probabilities: their shares at each pixel."""
        stride = self.walk_options["stride"]
        scores = F.interpolate(
            scores[None], scale_factor=stride, mode="bilinear", align_corners=False
        )[0, :, : size[0], : size[1]]
        return scores / scores.sum(0, keepdim=True).clamp(min=1e-20)
