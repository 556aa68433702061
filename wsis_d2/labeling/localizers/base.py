"""Where are the objects? What a localiser is, and what it says of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from fvcore.common.registry import Registry
from torch import Tensor

from ...errors import look_up
from ..cam_folder import CAMFolder

LOCALIZER_REGISTRY = Registry("LOCALIZER")
LOCALIZER_REGISTRY.__doc__ = """
Localisers by their name in ``PSEUDO_LABELS.LOCALIZER``: subclasses of
:class:`wsis_d2.labeling.Localizer` that are built from a config.
"""


@dataclass
class LocationCues:
    """The objects that a localiser sees in one image, strongest first, P of them.

    Attributes:
        class_ids: (P,) int64, contiguous class ids.
        responses: (P,) float, strength of the evidence, in the localiser's own unit (a logit for
            peaks, a CAM value for CAMs).
        class_scores: (P,) float in [0, 1], how certain the localiser is of the object's class.
        points: (P, 2) int64, (y, x) in pixels of the original image.
        response_maps: (P, h, w) float, where the evidence for each object lies, at any size; each
            is non-negative and sums to 1 (peak response maps, for instance).
        class_response_maps: (C, h', w') float, evidence for each class at any size, unbounded.
        density_maps: (C, h'', w'') float, objects of each class per cell; None where the localiser
            does not count.
        boxes: (P, 4) float, (x0, y0, x1, y1) in pixels of the original image, pixel edges as in
            Detectron2's boxes; None where the localiser gives none.
        unlabelled: objects of classes that the image is not labelled with, ``pred_boxes``,
            ``scores`` and ``pred_classes``; None where nobody looked for them.
    """

    class_ids: Tensor
    responses: Tensor
    class_scores: Tensor
    points: Tensor
    response_maps: Tensor
    class_response_maps: Tensor
    density_maps: Tensor | None = None
    boxes: Tensor | None = None
    unlabelled: Instances | None = None

    def __len__(self) -> int:
        return len(self.class_ids)


class Localizer(torch.nn.Module, ABC):
    """Where are the objects of the labelled classes?

    Registered in ``LOCALIZER_REGISTRY`` and built from a config.

    Attributes:
        network: the trained network, whose checkpoint ``MODEL.WEIGHTS`` names; None where there is
            nothing to train.
        cams: the stored CAMs that it reads, None where it reads none.
        gives_boxes: whether its cues have ``boxes``.
    """

    network: torch.nn.Module | None
    cams: CAMFolder | None = None
    gives_boxes: bool = False

    def optimize(self) -> None:
        """See :meth:`wsis_d2.labeling.LabelGenerator.optimize`."""

    @abstractmethod
    def forward(self, x: dict) -> LocationCues:
        """Locate the objects of one image.

        Args:
            x: a model input dict: ``image`` (C, H, W), ``image_labels`` (K,) int64, ``file_name``,
                ``image_id``, and ``height`` and ``width`` of the original image.
        """


def build_localizer(cfg: CfgNode) -> Localizer:
    """The localiser ``cfg.PSEUDO_LABELS.LOCALIZER``, without weights.

    Raises:
        UserError: no localiser of that name.
    """
    return look_up(LOCALIZER_REGISTRY, cfg.PSEUDO_LABELS.LOCALIZER, "PSEUDO_LABELS.LOCALIZER")(cfg)


def located_boxes(cues: LocationCues, size: tuple[int, int]) -> Instances:
    """All boxes of an image, those of its objects first.

    Args:
        cues: with ``boxes``.
        size: (height, width) of the image.

    Returns:
        ``pred_boxes``, ``scores``, ``pred_classes`` and ``is_labelled`` (N,) bool, whether the
        image has the label, on the CPU.
    """
    objects = Instances(
        size, pred_boxes=Boxes(cues.boxes), scores=cues.class_scores, pred_classes=cues.class_ids
    ).to("cpu")
    parts = [objects] if cues.unlabelled is None else [objects, cues.unlabelled.to("cpu")]
    boxes = Instances.cat(parts)
    boxes.is_labelled = torch.arange(len(boxes)) < len(objects)
    return boxes


def move_to_points(
    cues: LocationCues, class_ids: Tensor, points: Tensor, size: tuple[int, int]
) -> LocationCues:
    """Objects whose places are known take the place of those that were found of their classes.

    The response map of each is the response of its class where no other point of the class is
    nearer, and its cell alone where there is none.

    Args:
        cues: P objects, without boxes.
        class_ids: (Q,) int64, of all objects of these classes in the image; Q at least 1.
        points: (Q, 2) int64, (y, x) of each in pixels of the original image.
        size: (height, width) of the original image.

    Returns:
        The Q objects, of class score 1, then those of other classes.
    """
    maps = cues.class_response_maps
    class_ids, points = class_ids.to(maps.device), points.to(maps.device)
    others = (~torch.isin(cues.class_ids, class_ids)).nonzero()[:, 0]
    height, width = cues.response_maps.shape[1:]
    resized = F.interpolate(maps[class_ids][None].float(), (height, width), mode="bilinear")[0]
    cells = to_pixels(points, size, (height, width))
    rows, columns = (torch.arange(n, device=maps.device) for n in (height, width))
    distances = (rows[:, None] - cells[:, 0, None, None]) ** 2
    distances = distances + (columns - cells[:, 1, None, None]) ** 2
    # Another point of the class is a rival: the least distance to any of them.
    same = class_ids[:, None] == class_ids
    nearest = torch.stack([distances[of_class].amin(0) for of_class in same])
    shares = resized.clamp(min=0) * (distances == nearest)
    responses = resized[torch.arange(len(cells)), cells[:, 0], cells[:, 1]]
    empty = (shares.sum((1, 2)) == 0).nonzero()[:, 0]
    shares[empty, cells[empty, 0], cells[empty, 1]] = 1.0
    shares = shares / shares.sum((1, 2), keepdim=True)

    def joined(given: Tensor, found: Tensor) -> Tensor:
        return torch.cat([given.to(found), found[others]])

    return replace(
        cues,
        class_ids=joined(class_ids, cues.class_ids),
        responses=joined(responses, cues.responses),
        class_scores=joined(torch.ones(len(cells)), cues.class_scores),
        points=joined(points, cues.points),
        response_maps=joined(shares, cues.response_maps),
    )


def strongest_points(maps: Tensor) -> Tensor:
    """(y, x) of the maximum of each of P maps (P, h, w), the first one of equals: (P, 2) int64."""
    width = maps.shape[-1]
    flat = maps.flatten(1)
    index = flat.argmax(1) if len(flat) else flat.new_zeros(0, dtype=torch.int64)
    return torch.stack([index // width, index % width], 1)


def to_pixels(points: Tensor, map_size: Sequence[int], image_size: Sequence[int]) -> Tensor:
    """Points of a map as pixels of its image, at the same relative place, centre for centre.

    Args:
        points: (P, 2) int64, (y, x) in a map of ``map_size``.
        map_size: (h, w) of the map, which covers the image.
        image_size: (H, W) of the image.

    Returns:
        (P, 2) int64, (y, x) inside the image.
    """
    size = torch.tensor(map_size, device=points.device)
    target = torch.tensor(image_size, device=points.device)
    return ((points + 0.5) * target / size).long().clamp(min=0).minimum(target - 1)
