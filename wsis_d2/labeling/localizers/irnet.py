"""Where are the instances? Where IRNet's displacement field leads to."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from torch import Tensor

from ...data import label_dataset_name
from ...errors import UserError
from ..cam_folder import CAMFolder
from ..irnet_walk import InstanceWalk, IRNetCues, find_winners, normalized_scores, upsample
from ..optimize import optimize_for_inference
from .base import LOCALIZER_REGISTRY, Localizer, LocationCues, strongest_points


@LOCALIZER_REGISTRY.register()
class IRNetCentroids(Localizer):
    """The instances that IRNet's displacement field tells apart (Ahn et al., CVPR 2019, section
    5.1), each with its instance-wise CAM after the random walk.

    An instance is a pair of a class and a cluster. It counts where it wins at least ``min_area`` of
    the image from the other instances and the background, by the scores of IRNet's own labels.
    Response and class score are the maximum of its score. Response maps are of the image's size.

    Args:
        walk: the trained :class:`wsis_d2.modeling.IRNet`, its CAMs and the random walk.
        num_classes: number of classes of the dataset.
        max_peaks: at most this many instances per image, strongest first.
    """

    @configurable
    def __init__(self, *, walk: InstanceWalk, num_classes: int, max_peaks: int = 100):
        super().__init__()
        self.walk = walk
        self.num_classes = num_classes
        self.max_peaks = max_peaks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS`` and what :class:`InstanceWalk` reads.

        Raises:
            UserError: the config is of another network.
        """
        if cfg.MODEL.META_ARCHITECTURE != "IRNet":
            raise UserError(
                f"MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}', which gives no "
                "displacements: use the config of an IRNet, or another PSEUDO_LABELS.LOCALIZER"
            )
        return {
            "walk": InstanceWalk(cfg),
            "num_classes": len(MetadataCatalog.get(label_dataset_name(cfg)).thing_classes),
            "max_peaks": cfg.PSEUDO_LABELS.MAX_PEAKS,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The IRNet."""
        return self.walk.network

    @property
    def cams(self) -> CAMFolder:
        """The stored CAMs that it starts from."""
        return self.walk.cams

    def optimize(self) -> None:
        """See :meth:`Localizer.optimize`."""
        optimize_for_inference(self.network)

    @torch.no_grad()
    def forward(self, x: dict) -> LocationCues:
        """See :meth:`Localizer.forward`."""
        walk, size = self.walk, (x["height"], x["width"])
        cues = walk(x)
        scores = normalized_scores(
            cues, walk.normalization, walk.min_area, stride=walk.stride, size=size
        )
        winners, _ = find_winners(scores, walk.stride, size, walk.bg_threshold)
        areas = winners.flatten().bincount(minlength=len(scores) + 1)[1:]
        (index,) = (areas >= max(1, walk.min_area * winners.numel())).nonzero(as_tuple=True)
        response_maps = upsample(scores[index], walk.stride, size)
        responses = response_maps.amax((1, 2)).clamp(max=1)
        order = torch.sort(responses, descending=True, stable=True).indices[: self.max_peaks]
        index, responses, response_maps = index[order], responses[order], response_maps[order]
        cells = instance_points(cues, index, scores[index], walk.bg_threshold)
        last_pixel = torch.tensor(size, device=cells.device) - 1
        class_response_maps = response_maps.new_zeros(self.num_classes, *size)
        class_response_maps[cues.class_ids] = upsample(cues.cam, walk.stride, size)
        return LocationCues(
            class_ids=cues.instance_class_ids[index],
            responses=responses,
            class_scores=responses,
            points=(cells * walk.stride + walk.stride // 2).minimum(last_pixel),
            response_maps=response_maps / response_maps.sum((1, 2), keepdim=True),
            class_response_maps=class_response_maps,
        )


def instance_points(cues: IRNetCues, index: Tensor, scores: Tensor, bg_threshold: float) -> Tensor:
    """The cell of each instance: the mean of the places where its pixels' paths end.

    Pixels count as much as their CAM. Where there is no evidence at that cell (of an object that is
    bent, or cut by the image's border), or there are no paths, the strongest cell stands for it.

    Args:
        cues: of one image.
        index: (P,) int64, instances.
        scores: (P, h, w) float, their scores, to be compared with the background's.
        bg_threshold: score of the background.

    Returns:
        (P, 2) int64, (y, x).
    """
    strongest = strongest_points(scores)
    if cues.centroids is None:
        return strongest
    weights = cues.instance_cams[index]
    weights = weights / weights.sum((1, 2), keepdim=True)
    ends = torch.einsum("phw,ahw->pa", weights, cues.centroids.to(weights.dtype)).round().long()
    at_ends = scores[torch.arange(len(ends), device=ends.device), ends[:, 0], ends[:, 1]]
    return torch.where((at_ends > bg_threshold)[:, None], ends, strongest)
