"""What a person gave of some images takes the place of what a generator made of them.

All objects of a class in an image are given, or none is (:mod:`wsis_d2.data.stronger_labels`): so
the generator's masks of such a class are candidates, and those that nothing asks for are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou

from ..data.stronger_labels import StrongerLabel
from ..structures import (
    box_masks,
    decode_mask,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_area,
    mask_boxes,
)
from ..structures.masks import RLE

#: A candidate fits a box where its own bounding box has at least this IoU with it.
MIN_FIT = 0.5


@dataclass(frozen=True)
class GivenMask:
    """The mask of an object that a person has marked.

    Attributes:
        mask: the mask.
        class_id: its class.
        score: 1 of a given mask; a candidate that a point or a box chose has (1 + s) / 2, where s
            in [0, 1] is its own score or how well it fits the box; an ellipse has 1/2.
        given: "mask", "box", "ellipse" (of a box that no candidate fits) or "point".
    """

    mask: RLE
    class_id: int
    score: float
    given: str


def apply_stronger_labels(
    masks: Sequence[RLE],
    class_ids: Sequence[int],
    scores: Sequence[float],
    labels: Sequence[StrongerLabel],
    size: tuple[int, int],
) -> tuple[np.ndarray, list[GivenMask]]:
    """The masks of an image, as far as points, boxes and masks say what they have to be.

    * A mask is the label itself.
    * A box takes the candidate of its class whose bounding box has the highest IoU with it, cropped
      to the box; where that is below :data:`MIN_FIT`, the ellipse that the box is around. (Of VOC's
      objects the ellipse has an IoU of 0.55 with the true mask in the mean, the whole box 0.52, and
      candidates of a lower fit, cropped, less than the ellipse.)
    * A point takes the candidate of its class that it lies in, the one of the highest score; points
      in one candidate share it, each pixel goes to the nearest of them. A point that lies in none
      has no mask.

    Args:
        masks: N masks of a generator.
        class_ids: their classes.
        scores: theirs in [0, 1].
        labels: what is given of the image.
        size: (height, width) of the image.

    Returns:
        (K,) int64, the masks that stay: those of classes without labels; and the masks that the
        labels give, in the labels' order, without those of points that lie in no candidate.
    """
    classes = np.asarray(class_ids, dtype=np.int64)
    kept = np.flatnonzero(~np.isin(classes, [label.class_id for label in labels]))
    shares = _shares(masks, classes, scores, labels)
    found = []
    for number, label in enumerate(labels):
        if label.mask is not None:
            found.append(GivenMask(label.mask, label.class_id, 1.0, "mask"))
        elif label.box is not None:
            candidates = [masks[i] for i in np.flatnonzero(classes == label.class_id)]
            found += _masks_in_box(candidates, label, size)
        elif number in shares:
            index, mask = shares[number]
            score = (1 + min(max(float(scores[index]), 0.0), 1.0)) / 2
            found.append(GivenMask(mask, label.class_id, score, "point"))
    return kept, found


def box_fit(masks: Sequence[RLE], box: Sequence[float]) -> np.ndarray:
    """(N,) IoU of the masks' bounding boxes with a box (x0, y0, x1, y1), 0 for an empty mask."""
    target = torch.tensor([box], dtype=torch.float64)
    found = Boxes(torch.from_numpy(mask_boxes(masks)))
    return pairwise_iou(found, Boxes(target))[:, 0].double().numpy()


def point_pixel(point: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """(y, x) of the pixel of the image (height, width) that a point (x, y) lies in."""
    return min(int(point[1]), size[0] - 1), min(int(point[0]), size[1] - 1)


def _masks_in_box(
    candidates: Sequence[RLE], label: StrongerLabel, size: tuple[int, int]
) -> list[GivenMask]:
    """One mask; none where the box has no pixel."""
    fits = box_fit(candidates, label.box)
    if fits.max(initial=0) >= MIN_FIT:
        inside = box_masks(np.array([label.box]), size)[0]
        cropped = decode_mask(candidates[fits.argmax()]) & inside
        if cropped.any():
            score = (1 + float(fits.max())) / 2
            return [GivenMask(encode_mask(cropped), label.class_id, score, "box")]
    ellipse = _ellipse(label.box, size)
    return [GivenMask(encode_mask(ellipse), label.class_id, 0.5, "ellipse")] * bool(ellipse.any())


def _ellipse(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels with their centres in the ellipse that a box is around."""
    x0, y0, x1, y1 = box
    rows, columns = (np.arange(side) + 0.5 for side in size)
    y, x = (2 * rows - y0 - y1) / (y1 - y0), (2 * columns - x0 - x1) / (x1 - x0)
    return y[:, None] ** 2 + x**2 <= 1


def _shares(
    masks: Sequence[RLE],
    classes: np.ndarray,
    scores: Sequence[float],
    labels: Sequence[StrongerLabel],
) -> dict[int, tuple[int, RLE]]:
    """Of each point, by its number among the labels, the index of its mask and its part of it."""
    points: dict[int, dict[int, tuple[int, int]]] = {}
    for number, label in enumerate(labels):
        if label.point is None:
            continue
        inside = {}
        for i in np.flatnonzero(classes == label.class_id):
            pixel = point_pixel(label.point, tuple(masks[i]["size"]))
            if decode_mask(masks[i])[pixel]:
                inside[i] = pixel
        if inside:
            best = max(inside, key=lambda i: (scores[i], -mask_area(masks[i])))
            points.setdefault(best, {})[number] = inside[best]
    shares = {}
    for index, of_mask in points.items():
        parts = _split(masks[index], list(of_mask.values()))
        shares |= {number: (index, part) for number, part in zip(of_mask, parts)}
    return shares


def _split(mask: RLE, pixels: Sequence[tuple[int, int]]) -> list[RLE]:
    """The part of a mask that is nearest to each of some pixels (y, x), the first of equals."""
    if len(pixels) == 1:
        return [mask]
    bitmap = decode_mask(mask)
    rows, columns = np.nonzero(bitmap)
    centres = np.array(pixels)
    distances = (rows[:, None] - centres[:, 0]) ** 2 + (columns[:, None] - centres[:, 1]) ** 2
    nearest = distances.argmin(1)
    parts = np.zeros((len(pixels), *bitmap.shape), dtype=bool)
    parts[nearest, rows, columns] = True
    return encode_masks(parts)


def with_stronger_labels(output: dict, labels: Sequence[StrongerLabel]) -> dict:
    """A generator's output for an image, with what is given of it in place.

    Args:
        output: what :meth:`wsis_d2.labeling.LabelGenerator.label` gives, maybe with
            ``ignore_regions``, on the image's original size.
        labels: at least one, on that size.

    Returns:
        A copy with other ``instances``, on the CPU, sorted by score, which also have ``given``, a
        list of what :class:`GivenMask` says, "" of the generator's own, and without regions to
        ignore of the given classes. Label maps stay as they are.
    """
    output, instances = dict(output), output["instances"].to("cpu")
    size = instances.image_size
    rles = encode_masks(instances.pred_masks.numpy())
    kept, found = apply_stronger_labels(
        rles, instances.pred_classes.tolist(), instances.scores.tolist(), labels, size
    )
    masks = [*(rles[i] for i in kept), *(mask.mask for mask in found)]
    scores = torch.cat([instances.scores[kept], torch.tensor([m.score for m in found])])
    class_ids = torch.tensor([mask.class_id for mask in found], dtype=torch.int64)
    order = torch.sort(scores, descending=True, stable=True).indices
    bitmaps = torch.from_numpy(decode_masks([masks[i] for i in order], size))
    labelled = Instances(
        size,
        pred_masks=bitmaps,
        pred_boxes=BitMasks(bitmaps).get_bounding_boxes(),
        scores=scores[order],
        pred_classes=torch.cat([instances.pred_classes[kept], class_ids])[order],
    )
    labelled.given = _in_order([*[""] * len(kept), *(mask.given for mask in found)], order)
    if instances.has("candidates"):
        own = [instances.candidates[i] for i in kept]
        only = [[{"segmentation": mask.mask, "weight": 1.0}] for mask in found]
        labelled.candidates = _in_order([*own, *only], order)
    output["instances"] = labelled
    if "ignore_regions" in output:
        regions = output["ignore_regions"]
        given = torch.tensor([label.class_id for label in labels])
        output["ignore_regions"] = regions[~torch.isin(regions.pred_classes.cpu(), given)]
    return output


def _in_order(values: Sequence, order: torch.Tensor) -> list:
    return [values[i] for i in order]
