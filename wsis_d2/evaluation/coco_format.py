"""COCO-format files and masks: reading what others wrote, with errors that say what is wrong."""

import json
import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..errors import UserError


def _run_lengths(counts: bytes) -> np.ndarray:
    """Run lengths of a compressed RLE, as int64; ValueError if they cannot be read.

    A number is a sequence of characters from "0" on, five bits each, low bits first: bit 5 says
    that more follow, bit 4 of the last one is the sign. From the fourth run on, a run is stored as
    its difference to the run two before it.
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
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def to_rle(segmentation: Any, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Bring any COCO segmentation into one form.

    The runs are checked against the size, because pycocotools does not return from the IoU of masks
    whose runs do not add up.

    Args:
        segmentation: compressed RLE (counts bytes or str), uncompressed RLE (counts a list) or a
            list of polygons ``[x1, y1, x2, y2, ...]`` in pixels.
        image_size: (height, width), needed for polygons.

    Returns:
        ``{"size": [height, width], "counts": bytes}``

    Raises:
        ValueError: what is wrong with the mask, as the end of a sentence.
    """
    if isinstance(segmentation, Mapping):
        try:
            height, width = (int(side) for side in segmentation["size"])
            counts = segmentation["counts"]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError("its RLE needs 'size' [height, width] and 'counts'") from None
        if isinstance(counts, str | bytes):
            counts = counts.encode() if isinstance(counts, str) else counts
            runs = _run_lengths(counts)
        else:
            try:
                runs = np.asarray(counts, dtype=np.int64).reshape(-1)
                counts = mask_util.frPyObjects(
                    {"size": [height, width], "counts": runs.tolist()}, height, width
                )["counts"]
            except (TypeError, ValueError, OverflowError):
                raise ValueError("its RLE counts are not readable") from None
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"its RLE counts do not add up to its size {height} x {width}")
        return {"size": [height, width], "counts": counts}

    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ValueError("it has no segmentation")
    if image_size is None:
        raise ValueError("it is a polygon and the height and width of its image are not known")
    try:
        # Four numbers would be taken for a box; d2 too drops outlines of less than three points.
        polygons = [[float(v) for v in p] for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
    except (TypeError, ValueError):
        raise ValueError("its polygons are not lists of numbers") from None
    if not polygons or not np.isfinite(np.concatenate(polygons)).all():
        raise ValueError("it has no polygon of at least three points")
    height, width = (int(side) for side in image_size)
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width))


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        UserError: there is no such file, it is not readable, or it is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}': check the path") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except ValueError as error:  # not JSON or not UTF-8
        raise UserError(f"'{path}' is not a JSON file: {error}") from None


def read_coco_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO dataset file: an object with lists ``images``, ``annotations``, ``categories``.

    Raises:
        UserError: as :func:`read_json`, or it is not such an object.
    """
    dataset = read_json(path)
    for key, fields in {
        "images": ("id",),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }.items():
        entries = dataset.get(key) if isinstance(dataset, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"'{path}' is not a COCO dataset file: it has no list '{key}'")
        _check_entries(path, key, entries, fields)
    return dataset


def _check_entries(path, key: str, entries: list, fields: tuple[str, ...]) -> None:
    for number, entry in enumerate(entries):
        for field in fields:
            if not isinstance(entry, dict) or not isinstance(entry.get(field), int | str):
                raise UserError(f"'{path}' is not in COCO format: {key}[{number}] has no '{field}'")


def image_sizes(dataset: Mapping[str, Any]) -> dict[Hashable, tuple[int, int]]:
    """(height, width) of each image id of a COCO dataset, where the file gives them."""
    return {
        image["id"]: (int(image["height"]), int(image["width"]))
        for image in dataset["images"]
        if all(isinstance(image.get(side), int | float) for side in ("height", "width"))
    }


def _with_rles(path, annotations, sizes) -> list[dict[str, Any]]:
    """The annotations reduced to what evaluation needs, their masks as compressed RLEs."""
    instances = []
    for number, annotation in enumerate(annotations):
        image_id = annotation["image_id"]
        try:
            rle = to_rle(annotation.get("segmentation"), sizes.get(image_id))
        except ValueError as error:
            raise UserError(
                f"annotation {annotation.get('id', number)} of image {image_id} in '{path}' "
                f"is not a mask: {error}"
            ) from None
        instance = {
            "image_id": image_id,
            "category_id": annotation["category_id"],
            "segmentation": rle,
        }
        if "score" in annotation:
            instance["score"] = annotation["score"]
        instances.append(instance)
    return instances


def ground_truths_of(dataset: Mapping[str, Any], path: str = "") -> list[dict[str, Any]]:
    """True instances of a COCO dataset (as read by :func:`read_coco_json` from ``path``).

    Crowd regions (``iscrowd`` 1) are groups and no instances: they are left out, so a detection on
    one is a false positive. VOC's AP knows no crowds; COCO's own, which ignores such detections, is
    given by Detectron2's ``COCOEvaluator``.

    Returns:
        list of ``{"image_id", "category_id", "segmentation"}``, the segmentation as by
        :func:`to_rle`.
    """
    truths = [a for a in dataset["annotations"] if not a.get("iscrowd", 0)]
    return _with_rles(path, truths, image_sizes(dataset))


def load_coco_ground_truths(json_file: str | os.PathLike) -> list[dict[str, Any]]:
    """True instances of a COCO dataset file; see :func:`ground_truths_of`.

    Raises:
        UserError: the file is missing, is not in COCO format or has an unreadable mask.
    """
    return ground_truths_of(read_coco_json(json_file), os.fspath(json_file))


def load_coco_detections(
    json_file: str | os.PathLike,
    sizes: Mapping[Hashable, tuple[int, int]] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Detections of a COCO results list or of a COCO dataset whose annotations may have scores.

    Crowd regions (``iscrowd`` 1) are no detections: in pseudo labels they say where to ignore.

    Args:
        json_file: the file.
        sizes: (height, width) by image id, for polygons in a results list.

    Returns:
        list of ``{"image_id", "category_id", "segmentation", "score"}``, the score 1 where the file
        has none; and the dataset that the file holds, None for a results list.

    Raises:
        UserError: the file is missing, is not in COCO format or has an unreadable mask or score.
    """
    content = read_json(json_file)
    if isinstance(content, list):
        _check_entries(json_file, "results", content, ("image_id", "category_id"))
        dataset, annotations = None, content
    else:
        dataset = read_coco_json(json_file)
        annotations = [a for a in dataset["annotations"] if not a.get("iscrowd", 0)]
        sizes = {**(sizes or {}), **image_sizes(dataset)}
    detections = _with_rles(json_file, annotations, sizes or {})
    for number, detection in enumerate(detections):
        score = detection.setdefault("score", 1.0)
        if not isinstance(score, int | float) or not np.isfinite(score):
            raise UserError(f"the score of annotation {number} in '{json_file}' is not a number")
    return detections, dataset
