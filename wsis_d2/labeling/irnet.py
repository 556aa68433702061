"""IRNet: class boundaries and displacements turn CAMs into instances (Ahn et al., CVPR 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor

from ..errors import UserError
from .cam_folder import CAMFolder
from .detect import detect_instances
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator
from .irnet_walk import (
    NORMALIZATIONS,
    InstanceWalk,
    IRNetCues,
    find_winners,
    normalized_scores,
    upsampled_maximum,
    walk_instance_cams,
)
from .optimize import optimize_for_inference

SCORES = ("walk", "contrast")
# What surrounds an instance, for its contrast: so many cells around it.
RING_CELLS = 6


def instances_from_relations(
    cam: Tensor,
    class_ids: Tensor,
    boundary: Tensor | None,
    displacement: Tensor | None,
    image_size: tuple[int, int],
    bg_threshold: float = 0.25,
    beta: float = 10.0,
    num_steps: int = 256,
    radius: int = 5,
    stride: int = 4,
    *,
    normalization: str = "image",
    min_area: float = 0.01,
    score: str = "walk",
    **walk_options,
) -> Instances:
    """Instances of one image from its CAMs, class boundary map and displacement field (section 5).

    Args:
        cam: (C, h, w) float in [0, 1], CAMs of the labelled classes; tensors or numpy arrays.
        class_ids: (C,) int64.
        boundary: (h, w) float in [0, 1], or None for the ablation without the walk.
        displacement: (2, h, w) float, (dy, dx) in cells, or None for the ablation without it.
        image_size: (H, W) with h = (H - 1) // stride + 1 and likewise w.
        bg_threshold: score of the background.
        beta, num_steps, radius: of the random walk.
        stride: pixels per cell.
        normalization: see :func:`instance_scale`; "image" is as published.
        min_area: smaller pieces, as a fraction of the image's area, are dropped.
        score: "walk": an instance's score is the highest of its pixels after the walk, as
            published, so that the best instance of every image has the score 1. "contrast": see
            :func:`cam_contrast`, which compares instances of different images.
        walk_options: see :func:`walk_instance_cams`.

    Returns:
        See :func:`wsis_d2.labeling.detect_instances`. Scores are in [0, 1].

    Raises:
        ValueError: an unknown normalization or score.
    """
    cam, class_ids = torch.as_tensor(cam), torch.as_tensor(class_ids)
    boundary = None if boundary is None else torch.as_tensor(boundary)
    displacement = None if displacement is None else torch.as_tensor(displacement)
    options = {"beta": beta, "num_steps": num_steps, "radius": radius, **walk_options}
    cues = walk_instance_cams(cam, class_ids, boundary, displacement, **options)
    return cues_to_instances(cues, image_size, bg_threshold, stride, normalization, min_area, score)


def cues_to_instances(
    cues: IRNetCues,
    image_size: tuple[int, int],
    bg_threshold: float,
    stride: int,
    normalization: str,
    min_area: float,
    score: str = "walk",
) -> Instances:
    """The last step of :func:`instances_from_relations`."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}"
        )
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    scores = normalized_scores(cues, normalization, min_area, stride=stride, size=image_size)
    winners, best = find_winners(scores, stride, image_size, bg_threshold)
    instances = detect_instances(winners, best, cues.instance_class_ids, min_area)
    if score == "walk":
        return instances
    instances.scores = cam_contrast(
        instances.pred_masks, instances.pred_classes, cues.cam.cpu(), cues.class_ids.cpu(), stride
    )
    return instances[instances.scores.sort(descending=True, stable=True).indices]


def cam_contrast(
    masks: Tensor, class_ids: Tensor, cam: Tensor, cam_class_ids: Tensor, stride: int
) -> Tensor:
    """How far the CAM of an instance's class stands out in its mask from what is around it.

    The mean over the mask less the mean over a ring of ``RING_CELLS`` cells around it; times the
    part of the ring that lies in the image, as nothing is known of what the border cuts; times the
    square root of the mask's part of all that its class covers, as a small piece beside a large one
    is seldom an object.

    Args:
        masks: (N, H, W) bool, instances that do not overlap.
        class_ids: (N,) int64, each among ``cam_class_ids``.
        cam: (C, h, w) float in [0, 1], h = (H - 1) // stride + 1 and likewise w.
        cam_class_ids: (C,) int64.
        stride: pixels per cell.

    Returns:
        (N,) float in [0, 1]; 0 where the CAM does not stand out, and for what fills the image.
    """
    if not len(masks):
        return cam.new_zeros(0)
    coverage = F.avg_pool2d(masks.to(cam.dtype)[:, None], stride, ceil_mode=True)[:, 0]
    padded = F.pad(coverage, [RING_CELLS] * 4)  # the ring reaches beyond the image
    near = F.max_pool2d(padded, 2 * RING_CELLS + 1, stride=1, padding=RING_CELLS)
    whole_ring = (near > 0) & (padded == 0)
    ring = whole_ring[:, RING_CELLS:-RING_CELLS, RING_CELLS:-RING_CELLS].to(cam.dtype)
    maps = cam[(class_ids[:, None] == cam_class_ids[None]).to(torch.uint8).argmax(1)]
    inside, outside = (
        (maps * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-20)
        for weight in (coverage, ring)
    )
    ring_in_image = ring.sum((1, 2)) / whole_ring.sum((1, 2))
    areas = masks.flatten(1).sum(1).to(cam.dtype)
    share = areas / ((class_ids[:, None] == class_ids[None]).to(cam.dtype) @ areas)
    return (inside - outside).clamp(0, 1) * ring_in_image * share.sqrt()


def cues_to_label_map(
    cues: IRNetCues, image_size: tuple[int, int], bg_threshold: float, stride: int
) -> Tensor:
    """Semantic labels from the same walk: (H, W) uint8, 0 background, c + 1 class c.

    The walk is linear and the clusters are a partition, so the walk of a class's CAM is the sum
    over its instances.
    """
    class_ids = cues.class_ids.to(cues.cam.device)
    of_class = (class_ids[:, None] == cues.instance_class_ids[None]).to(cues.cam.dtype)
    scores = torch.einsum("ci,ihw->chw", of_class, cues.instance_scores)
    if cues.boundary is not None:
        scores = scores / upsampled_maximum(scores, stride, image_size).clamp(min=1e-20)
    winners, _ = find_winners(scores, stride, image_size, bg_threshold)
    labels = torch.cat([class_ids.new_zeros(1), class_ids + 1])
    return labels[winners].to(torch.uint8)


@LABEL_GENERATOR_REGISTRY.register()
class IRNetLabels(LabelGenerator):
    """Instances and semantic labels of a trained :class:`wsis_d2.modeling.IRNet`.

    Args:
        walk: the network, its CAMs and the random walk.
        sem_seg_bg_threshold: score of the background for the semantic labels.
        score: see :func:`instances_from_relations`.
    """

    gives_label_maps = True

    @configurable
    def __init__(self, *, walk: InstanceWalk, sem_seg_bg_threshold: float, score: str):
        super().__init__()
        if score not in SCORES:
            raise UserError(
                f"PSEUDO_LABELS.IRNET.SCORE is {score!r}: choose one of {', '.join(SCORES)}"
            )
        self.walk = walk
        self.sem_seg_bg_threshold = sem_seg_bg_threshold
        self.score = score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.IRNET`` and what :class:`InstanceWalk` reads."""
        irnet = cfg.PSEUDO_LABELS.IRNET
        return {
            "walk": InstanceWalk(cfg),
            "sem_seg_bg_threshold": irnet.SEM_SEG_BG_THRESHOLD,
            "score": irnet.SCORE,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The IRNet."""
        return self.walk.network

    @property
    def cams(self) -> CAMFolder:
        """The CAMs that it starts from."""
        return self.walk.cams

    def optimize(self) -> None:
        """See :meth:`LabelGenerator.optimize`."""
        optimize_for_inference(self.network)

    def label(self, x: dict) -> dict:
        """See :meth:`LabelGenerator.label`; the cues are :class:`IRNetCues`."""
        walk, size = self.walk, (x["height"], x["width"])
        cues = walk(x)
        instances = cues_to_instances(
            cues,
            size,
            walk.bg_threshold,
            walk.stride,
            walk.normalization,
            walk.min_area,
            self.score,
        )
        label_map = cues_to_label_map(cues, size, self.sem_seg_bg_threshold, walk.stride)
        return {"instances": instances, "sem_seg_labels": label_map, "cues": cues}

    def evidence(self, x: dict, output: dict) -> tuple[Tensor, Tensor]:
        """See :meth:`LabelGenerator.evidence`: the CAMs."""
        return output["cues"].cam, output["cues"].class_ids
