"""Masks as COCO run-length encodings (RLE): checked, encoded, decoded, compared.

An RLE is ``{"size": [height, width], "counts": str}``, compressed. pycocotools trusts the counts
that it is given: where they do not fit the size, it reads and writes outside its buffers, or does
not come to an end. So whatever comes from a file goes through :func:`to_rle` once (or, where it
stays as it is, through :func:`check_segmentation`); the other functions take what that one gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any

import cv2
import numpy as np
import scipy.ndimage
from pycocotools import mask as mask_utils

#: The largest image that Pillow opens: it takes those with more pixels for decompression bombs.
MAX_PIXELS = 2 * 89_478_485
# pycocotools walks along an outline pixel by pixel: one that leaves the image by more than this
# multiple of its longer side is no outline of something in it.
_FAR = 2
# And it keeps a record of each of these pixels, 40 bytes: so an outline has a greatest length.
_MAX_OUTLINE = 2_000_000
# More masks at a time make pycocotools 2.0.11 fail with NumPy 2.
_MAX_AT_ONCE = 255

RLE = dict[str, Any]


def to_rle(segmentation: Any, image_size: tuple[int, int] | None = None) -> RLE:
    """Bring any COCO segmentation into one form, known to be a mask.

    Args:
        segmentation: compressed RLE (counts bytes or str), uncompressed RLE (counts a list) or a
            list of polygons ``[x1, y1, x2, y2, ...]`` in pixels. Outlines of less than three points
            are left out, as Detectron2 does, where there are others.
        image_size: (height, width), needed for polygons.

    Returns:
        ``{"size": [height, width], "counts": str}``.

    Raises:
        ValueError: what is wrong with the mask, as the end of a sentence.
    """
    if isinstance(segmentation, Mapping):
        height, width, runs = _checked_runs(segmentation)
        counts = segmentation["counts"]
        if isinstance(counts, str | bytes):
            return with_text_counts({"size": [height, width], "counts": counts})
        uncompressed = {"size": [height, width], "counts": runs.tolist()}
        return with_text_counts(mask_utils.frPyObjects(uncompressed, height, width))
    height, width, polygons = _checked_polygons(segmentation, image_size)
    return with_text_counts(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width)))


def check_segmentation(segmentation: Any, image_size: tuple[int, int] | None = None) -> None:
    """Raise the ValueError of :func:`to_rle` where that one would, without making the mask."""
    if isinstance(segmentation, Mapping):
        _checked_runs(segmentation)
    else:
        _checked_polygons(segmentation, image_size)


def _checked_polygons(
    segmentation: Any, image_size: tuple[int, int] | None
) -> tuple[int, int, list[list[float]]]:
    """Height, width and the outlines of at least three points."""
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ValueError("it has no segmentation")
    if image_size is None:
        raise ValueError("it is a polygon and the height and width of its image are not known")
    height, width = checked_size(image_size)
    try:
        # Four numbers would be taken for a box.
        polygons = [[float(v) for v in p] for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its polygons are not lists of numbers") from None
    if not polygons or not np.isfinite(np.concatenate(polygons)).all():
        raise ValueError("it has no polygon of at least three points")
    if np.abs(np.concatenate(polygons)).max() > _FAR * max(height, width):
        raise ValueError(f"it has a polygon far outside its image of {height} x {width} pixels")
    if sum(map(_outline_length, polygons)) > _MAX_OUTLINE:
        raise ValueError(f"its polygons are longer than {_MAX_OUTLINE} pixels")
    return height, width, polygons


def _outline_length(polygon: Sequence[float]) -> float:
    """Pixels on a closed outline ``[x1, y1, x2, y2, ...]``, the longer side of each line."""
    points = np.reshape(polygon, (-1, 2))
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _checked_runs(rle: Mapping[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height, width and run lengths (R,), which add up to them."""
    try:
        size, counts = rle["size"], rle["counts"]
    except KeyError:
        raise ValueError("its RLE needs 'size' [height, width] and 'counts'") from None
    height, width = checked_size(size)
    if isinstance(counts, str | bytes):
        runs = run_lengths(counts.encode() if isinstance(counts, str) else counts)
    else:
        try:
            runs = np.array([_whole(run) for run in counts], dtype=np.int64)
        except (TypeError, ValueError):
            raise ValueError("its RLE counts are not readable") from None
    if (runs < 0).any() or (runs > MAX_PIXELS).any() or runs.sum() != height * width:
        raise ValueError(f"its RLE counts do not add up to its size {height} x {width}")
    return height, width, runs


def checked_size(size: Any) -> tuple[int, int]:
    """(height, width) of an image; a ValueError says what is wrong with it."""
    try:
        height, width = (_whole(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError("its size is not [height, width] in whole pixels") from None
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise ValueError(f"its size {height} x {width} is not that of an image")
    return height, width


def _whole(value: Any) -> int:
    # The bound first: infinity has no int.
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= MAX_PIXELS:
        raise ValueError("it is not a number of pixels")
    if value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def run_lengths(counts: bytes) -> np.ndarray:
    """Run lengths of a compressed RLE, (R,) int64, background first; they may be nonsense.

    COCO's format: a number is a sequence of characters from "0" on, five bits each, low bits first.
    Bit 5 says that more follow, bit 4 of the last one is the sign. From the fourth run on, a run is
    stored as its difference to the run two before it.

    Raises:
        ValueError: they are not such characters.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    is_last = (digits & 0x20) == 0
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 0x3F or not is_last[-1]:
        raise ValueError("its RLE counts are not readable")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts + 1))
    if place.max() > 30:
        raise ValueError("its RLE counts are not readable")
    runs = np.add.reduceat((digits & 0x1F) << place, starts)
    runs -= ((digits[ends] & 0x10) > 0) * (32 << place[ends])
    # Odd and even runs are two independent sums; those at 0, 1 and 2 are stored as they are.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def with_text_counts(rle: Mapping[str, Any]) -> RLE:
    """pycocotools' RLE, whose counts are bytes, as JSON takes it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def encode_mask(mask: np.ndarray) -> RLE:
    """The RLE of an (H, W) mask, bool or 0 and 1."""
    mask = np.ascontiguousarray(mask, dtype=np.uint8)
    if mask.size:  # column by column, as pycocotools reads it; NumPy takes thrice the time for that
        mask = cv2.transpose(mask).T
    return with_text_counts(mask_utils.encode(np.asfortranarray(mask)))


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """The RLEs of (N, H, W) masks, bool or 0 and 1."""
    return [encode_mask(mask) for mask in masks]


def decode_mask(rle: RLE) -> np.ndarray:
    """(H, W) bool."""
    return mask_utils.decode(rle).astype(bool)


def decode_masks(rles: Sequence[RLE], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool; ``size`` is the (height, width) that all of them have."""
    if not len(rles):
        return np.zeros((0, *size), dtype=bool)
    return mask_utils.decode(list(rles)).transpose(2, 0, 1).astype(bool)


def fill_small_holes(mask: np.ndarray, max_size: int) -> tuple[np.ndarray, int]:
    """Fill the holes of a mask that have ``max_size`` pixels at most.

    Args:
        mask: (H, W), binary. A hole is background that is connected by sides and not to the border.
        max_size: in pixels.

    Returns:
        The mask, boolean, and the number of holes that were filled.
    """
    mask = np.asarray(mask, dtype=bool)
    holes, count = scipy.ndimage.label(scipy.ndimage.binary_fill_holes(mask) & ~mask)
    small = np.bincount(holes.ravel(), minlength=count + 1) <= max_size
    small[0] = False
    return mask | small[holes], int(small.sum())


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks or label maps (..., h, w) on another (height, width), by nearest neighbour."""
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, masks.shape[-2:], strict=True)
    )
    return masks[..., rows, :][..., columns]


def mask_area(rle: RLE) -> int:
    """In pixels."""
    return int(mask_utils.area(rle))


def mask_areas(rles: Sequence[RLE]) -> np.ndarray:
    """(N,) int64, in pixels."""
    # One at a time: pycocotools takes lists of up to 255 masks only (see _MAX_AT_ONCE).
    return np.array([mask_area(rle) for rle in rles], dtype=np.int64)


def box_masks(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes as masks: of the pixels whose centres they hold.

    Args:
        boxes: (N, 4) float, (x0, y0, x1, y1), pixel edges.
        size: (height, width) of the image.

    Returns:
        (N, H, W) bool.
    """
    (y, x), (x0, y0, x1, y1) = (np.arange(side) + 0.5 for side in size), boxes.T[..., None]
    rows, columns = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
    return rows[:, :, None] & columns[:, None]


def mask_box(rle: RLE) -> list[float]:
    """``[x, y, width, height]`` in pixels, the smallest box around the mask."""
    return mask_utils.toBbox(rle).tolist()


def mask_boxes(rles: Sequence[RLE]) -> np.ndarray:
    """(N, 4) float64, the smallest box (x0, y0, x1, y1) around each mask, pixel edges."""
    boxes = np.array([mask_box(rle) for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def mask_iou(rles: Sequence[RLE], others: Sequence[RLE]) -> np.ndarray:
    """Intersection over union of all pairs, 0 for two empty masks.

    Args:
        rles: N masks.
        others: M masks of the same size.

    Returns:
        (N, M) float64 in [0, 1].
    """
    return _compare(rles, others, crowd=0)


def mask_containment(rles: Sequence[RLE], others: Sequence[RLE]) -> np.ndarray:
    """How much of each mask lies in each other one, 0 for an empty mask.

    Args:
        rles: N masks.
        others: M masks of the same size.

    Returns:
        (N, M) float64 in [0, 1]: the intersection over the area of the first.
    """
    # What COCO counts of a detection on a crowd region.
    return _compare(rles, others, crowd=1)


def _compare(rles: Sequence[RLE], others: Sequence[RLE], crowd: int) -> np.ndarray:
    """pycocotools' overlap of all pairs, (N, M)."""
    overlap = np.zeros((len(rles), len(others)))
    for i in range(0, len(rles), _MAX_AT_ONCE):
        for j in range(0, len(others), _MAX_AT_ONCE):
            rows, columns = list(rles[i : i + _MAX_AT_ONCE]), list(others[j : j + _MAX_AT_ONCE])
            block = mask_utils.iou(rows, columns, [crowd] * len(columns))
            overlap[i : i + len(rows), j : j + len(columns)] = block
    return np.nan_to_num(overlap)


def mask_nms(
    rles: Sequence[RLE],
    scores: np.ndarray,
    threshold: float,
    max_kept: int | None = None,
    classes: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """Greedy non-maximum suppression of masks.

    A mask is dropped where its IoU with a better one that is kept is above the threshold, or 1. Of
    equal scores the first is better.

    Args:
        rles: N masks of one size.
        scores: (N,).
        threshold: in [0, 1].
        max_kept: the work ends when so many are kept.
        classes: (N,), where only masks of one class compete.

    Returns:
        (K,) int64 indices of those that are kept, best score first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked = [rles[i] for i in order]
    areas = mask_areas(ranked).astype(np.float64)
    labels = np.zeros(len(order)) if classes is None else np.asarray(classes)[order]
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == max_kept:
            break
        if not alive[i]:
            continue
        kept.append(i)
        # IoU is at most the ratio of the areas, which spares most of the comparisons.
        ratios = np.minimum(areas, areas[i]) / np.maximum(np.maximum(areas, areas[i]), 1.0)
        may_overlap = alive & (labels == labels[i]) & ((ratios > threshold) | (ratios >= 1))
        rivals = np.flatnonzero(may_overlap[i + 1 :]) + i + 1
        if len(rivals):
            iou = mask_iou([ranked[i]], [ranked[j] for j in rivals])[0]
            alive[rivals[(iou > threshold) | (iou >= 1)]] = False
    return order[kept]
