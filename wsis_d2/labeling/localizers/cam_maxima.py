"""Where are the instances? At the local maxima of class activation maps."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from skimage.feature import peak_local_max
from skimage.segmentation import watershed
from torch import Tensor

from ..cam_files import full_size_cam
from ..cams import MultiScaleCAM
from ..optimize import optimize_for_inference
from .base import LOCALIZER_REGISTRY, Localizer, LocationCues


@LOCALIZER_REGISTRY.register()
class CAMMaxima(Localizer):
    """Local maxima of the multi-scale CAM of each labelled class (Zhou et al., "Learning Deep
    Features for Discriminative Localization", CVPR 2016), each with the CAM inside its basin.

    The CAM of a class is in [0, 1], relative to its own maximum, and so is the response. The class
    score is the response times the probability of the class in the image: a weaker maximum is less
    certain to be another object of the class. Response maps are of the image's size.

    Args:
        multi_scale_cam: the trained :class:`wsis_d2.modeling.CAMClassifier`, giving CAMs.
        min_distance: least distance of two maxima of a class, in pixels of the image.
        relative_threshold: least response of a maximum.
        max_peaks: at most this many maxima per image, strongest first.
    """

    @configurable
    def __init__(
        self,
        *,
        multi_scale_cam: MultiScaleCAM,
        min_distance: int = 16,
        relative_threshold: float = 0.3,
        max_peaks: int = 100,
    ):
        super().__init__()
        self.multi_scale_cam = multi_scale_cam
        self.min_distance = min_distance
        self.relative_threshold = relative_threshold
        self.max_peaks = max_peaks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``CAM`` and ``PSEUDO_LABELS``."""
        maxima = cfg.PSEUDO_LABELS.CAM_MAXIMA
        return {
            "multi_scale_cam": MultiScaleCAM(cfg),
            "min_distance": maxima.MIN_DISTANCE,
            "relative_threshold": maxima.RELATIVE_THRESHOLD,
            "max_peaks": cfg.PSEUDO_LABELS.MAX_PEAKS,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The classifier."""
        return self.multi_scale_cam.classifier

    def optimize(self) -> None:
        """See :meth:`Localizer.optimize`."""
        optimize_for_inference(self.network)

    @torch.no_grad()
    def forward(self, x: dict) -> LocationCues:
        """See :meth:`Localizer.forward`."""
        (output,) = self.multi_scale_cam([x])
        (prediction,) = self.network([x])
        probabilities = prediction["image_scores"]
        size, labels = (x["height"], x["width"]), output["class_ids"].to(probabilities.device)
        cam = full_size_cam(output["cam"], size, self.multi_scale_cam.stride)
        class_response_maps = cam.new_zeros(len(probabilities), *size)
        class_response_maps[labels] = cam
        maxima = [cam_maxima(c, self.min_distance, self.relative_threshold) for c in cam]
        points = torch.cat([points for points, _ in maxima])
        shares = torch.cat([shares for _, shares in maxima])
        class_ids = torch.cat([c.expand(len(p)) for c, (p, _) in zip(labels, maxima)])
        responses = class_response_maps[class_ids, points[:, 0], points[:, 1]]
        order = torch.sort(responses, descending=True, stable=True).indices[: self.max_peaks]
        return LocationCues(
            class_ids=class_ids[order],
            responses=responses[order],
            class_scores=responses[order] * probabilities[class_ids[order]],
            points=points[order],
            response_maps=shares[order],
            class_response_maps=class_response_maps,
        )


def cam_maxima(cam: Tensor, min_distance: int, relative_threshold: float) -> tuple[Tensor, Tensor]:
    """Local maxima of a map and the share of each.

    The watershed of the map from its maxima gives each pixel to the maximum that it climbs to.

    Args:
        cam: (H, W) float, at least 0.
        min_distance: least distance of two maxima, in pixels.
        relative_threshold: least value of a maximum as a fraction of the greatest.

    Returns:
        (P, 2) int64, (y, x) of the maxima; (P, H, W) float, the map inside the basin of each,
        normalised to sum 1. On the device of the map.
    """
    values = cam.cpu().numpy().astype(np.float64)
    points = peak_local_max(
        values, min_distance, threshold_rel=relative_threshold, exclude_border=False
    )
    # A map without any evidence is one plateau.
    points = points[values[tuple(points.T)] > 0]
    markers = np.zeros(values.shape, dtype=np.int32)
    markers[tuple(points.T)] = np.arange(1, len(points) + 1)
    basins = watershed(-values, markers) == np.arange(1, len(points) + 1)[:, None, None]
    shares = torch.from_numpy(basins).to(cam.device) * cam
    return torch.from_numpy(points).to(cam.device), shares / shares.sum((1, 2), keepdim=True)
