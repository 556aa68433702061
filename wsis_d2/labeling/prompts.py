"""From located objects, or from finished masks, to what a promptable segmenter is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from scipy import ndimage
from torch import Tensor

from ..errors import UserError
from ..proposals import MaskPrompts, ProposalSource
from ..proposals.prompted import NO_POINT
from .localizers import LocationCues
from .localizers.base import to_pixels

#: What a question about an object may consist of.
PARTS = ("point", "box", "mask")

_ON_OBJECT, _BESIDE_OBJECT = 1, 0


class Prompter:
    """Asks about each object in one or more ways.

    Args:
        questions: each of some of "point", "box" and "mask", joined by "+". A point is that of the
            object, with those where it is not; box and mask are of its response map or its mask,
            the box that of the localiser where it gives one.
        response_threshold: an object is where its response is at least this part of its maximum.
        other_class_points: of the points of objects of other classes, this many of the nearest are
            said not to be on the object.
        background_points: and so many points of the background, see :func:`background_points`.
        background_threshold: see there.

    Raises:
        UserError: no such questions, or no such threshold.
    """

    def __init__(
        self,
        questions: Sequence[str] = ("point",),
        *,
        response_threshold: float = 0.25,
        other_class_points: int = 0,
        background_points: int = 0,
        background_threshold: float = 0.05,
    ) -> None:
        self.questions = [question.split("+") for question in questions]
        for question, parts in zip(questions, self.questions):
            if not set(parts) <= {*PARTS} or parts == ["mask"]:
                raise UserError(
                    f"PROPOSALS.PROMPTED.PROMPTS has {question!r}: join 'point', 'box' and 'mask' "
                    "by '+', and 'mask' with one of the others"
                )
        if not self.questions:
            raise UserError("PROPOSALS.PROMPTED.PROMPTS is empty: give ('point',), for one")
        if not 0 < response_threshold <= 1:
            raise UserError(
                f"PROPOSALS.PROMPTED.RESPONSE_THRESHOLD is {response_threshold}: give a part of "
                "the maximum, above 0 and up to 1"
            )
        self.response_threshold = response_threshold
        self.other_class_points = other_class_points
        self.background_points = background_points
        self.background_threshold = background_threshold

    def of_cues(self, cues: LocationCues, size: tuple[int, int]) -> list[MaskPrompts]:
        """The questions about located objects.

        Args:
            cues: P objects.
            size: (height, width) of the image in which their points count.

        Returns:
            Prompts for P objects, one per question, on the CPU.
        """
        maps = cues.response_maps.float().cpu()
        maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-20) if len(maps) else maps
        masks = (maps / (2 * self.response_threshold)).clamp(max=1)  # 0.5 at the threshold
        if cues.boxes is None:
            of_maps = BitMasks(masks >= 0.5).get_bounding_boxes()
            of_maps.scale(size[1] / masks.shape[2], size[0] / masks.shape[1])
            boxes = of_maps.tensor
        else:
            boxes = cues.boxes.cpu()
        points, labels = _pad_points(cues.points.cpu(), self._points_beside(cues, size))
        return self._ask(size, points, labels, boxes, masks)

    def of_instances(self, instances: Instances) -> list[MaskPrompts]:
        """The questions about finished masks. The point is the innermost of the mask.

        Args:
            instances: with ``pred_masks`` (N, H, W) bool.

        Returns:
            Prompts for N objects, one per question, on the CPU.
        """
        masks = instances.pred_masks.cpu()
        points = [innermost_point(mask) for mask in masks.numpy()]
        points = torch.tensor(points, dtype=torch.int64).reshape(-1, 2)
        points, labels = _pad_points(points, [points[:0]] * len(points))
        boxes = BitMasks(masks).get_bounding_boxes().tensor
        return self._ask(instances.image_size, points, labels, boxes, masks.float())

    def _ask(self, size, points, labels, boxes, masks) -> list[MaskPrompts]:
        return [
            MaskPrompts(
                size,
                points if "point" in parts else points[:, :0],
                labels if "point" in parts else labels[:, :0],
                boxes if "box" in parts else None,
                masks if "mask" in parts else None,
            )
            for parts in self.questions
        ]

    def _points_beside(self, cues: LocationCues, size: tuple[int, int]) -> list[Tensor]:
        """(N, 2) points of each object where it is not."""
        points, class_ids = cues.points.cpu(), cues.class_ids.cpu()
        if not len(points):
            return []
        maps = cues.class_response_maps[cues.class_ids.unique()].float().cpu()
        background = background_points(maps, self.background_threshold, self.background_points)
        background = to_pixels(background, maps.shape[-2:], size)
        distances = torch.cdist(points.double(), points.double())
        beside = []
        for row, class_id in zip(distances, class_ids):
            order = torch.sort(row, stable=True).indices
            # Two classes may peak at one place: nobody knows whose it is.
            order = order[(class_ids[order] != class_id) & (row[order] > 0)]
            beside.append(torch.cat([points[order[: self.other_class_points]], background]))
        return beside


def _pad_points(points: Tensor, beside: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One point on each object and those beside it as (P, K, 2) float and (P, K) int64 labels."""
    length = 1 + max(map(len, beside), default=0)
    padded = torch.zeros(len(points), length, 2)
    labels = torch.full((len(points), length), NO_POINT)
    padded[:, 0], labels[:, 0] = points.float(), _ON_OBJECT
    for i, others in enumerate(beside):
        padded[i, 1 : 1 + len(others)] = others.float()
        labels[i, 1 : 1 + len(others)] = _BESIDE_OBJECT
    return padded, labels


def background_points(maps: Tensor, threshold: float, count: int) -> Tensor:
    """Points where no class responds, far from where one does, from the border and each other.

    Args:
        maps: (C, h, w) float, class responses, on the CPU.
        threshold: a class responds from this part of its maximum.
        count: at most this many.

    Returns:
        (N, 2) int64, (y, x) in the maps.
    """
    relative = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-20)
    background = (relative.amax(0) < threshold).numpy()
    points = []
    while len(points) < count and background.any():
        points.append(innermost_point(background))
        background[points[-1]] = False
    return torch.tensor(points, dtype=torch.int64).reshape(-1, 2)


def innermost_point(mask: np.ndarray) -> tuple[int, int]:
    """(y, x) of the pixel of a mask (H, W) that is furthest from its outline and from the image's
    border, the first one of equals."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return tuple(int(i) for i in np.unravel_index(depth.argmax(), depth.shape))


def build_prompter(cfg: CfgNode, proposals: ProposalSource) -> Prompter | None:
    """What ``PROPOSALS.PROMPTED`` asks; None where the source of proposals needs no prompts."""
    if not proposals.prompted:
        return None
    settings = cfg.PROPOSALS.PROMPTED
    return Prompter(
        settings.PROMPTS,
        response_threshold=settings.RESPONSE_THRESHOLD,
        other_class_points=settings.OTHER_CLASS_POINTS,
        background_points=settings.BACKGROUND_POINTS,
        background_threshold=settings.BACKGROUND_THRESHOLD,
    )
