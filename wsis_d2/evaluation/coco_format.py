"""COCO-format files and masks: reading what others wrote, with errors that say what is wrong."""

import itertools
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..errors import UserError
from ..files import json_list, load_json, open_atomically, to_json
from ..structures import to_rle
from ..structures.masks import checked_size

#: Scores are sorted as floats; NaN, infinity and integers without end are none.
MAX_SCORE = 1e300


def read_coco_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO dataset file: an object with lists ``images``, ``annotations``, ``categories``.

    Raises:
        UserError: as :func:`wsis_d2.files.load_json`, or it is not such an object.
    """
    dataset = load_json(path)
    for key, fields in {
        "images": ("id",),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }.items():
        entries = dataset.get(key) if isinstance(dataset, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"'{path}' is not a COCO dataset file: it has no list '{key}'")
        _check_entries(path, key, entries, fields)
    # They are sorted.
    categories = (*dataset["categories"], *dataset["annotations"])
    ids = [entry.get("category_id", entry.get("id")) for entry in categories]
    if len({isinstance(category_id, str) for category_id in ids}) > 1:
        raise UserError(
            f"'{path}' is not in COCO format: the id of a category is a number here, a text there"
        )
    return dataset


def _check_entries(path, key: str, entries: list, fields: tuple[str, ...]) -> None:
    for number, entry in enumerate(entries):
        for field in fields:
            if not isinstance(entry, dict) or not isinstance(entry.get(field), int | str):
                raise UserError(f"'{path}' is not in COCO format: {key}[{number}] has no '{field}'")


def image_sizes(dataset: Mapping[str, Any]) -> dict[Hashable, tuple[int, int]]:
    """(height, width) of each image id of a COCO dataset, where the file gives them."""
    sizes = {}
    for image in dataset["images"]:
        # Where it is none, so is a polygon of the image, which is said there.
        with suppress(ValueError):
            sizes[image["id"]] = checked_size((image.get("height"), image.get("width")))
    return sizes


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
    content = load_json(json_file)
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
        if not isinstance(score, int | float) or not abs(score) <= MAX_SCORE:
            raise UserError(f"the score of annotation {number} in '{json_file}' is not a number")
    return detections, dataset


def write_coco_json(
    path: str | os.PathLike,
    info: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
) -> None:
    """Write a COCO dataset file, atomically; one annotation is in memory at a time.

    Raises:
        UserError: it cannot be written.
    """
    with open_atomically(path) as file:
        # What files.write_json writes of a dict of these four.
        pieces = itertools.chain(
            [f'{{"info": {to_json(info)}, "images": '],
            json_list(images),
            [', "annotations": '],
            json_list(annotations),
            [f', "categories": {to_json(categories)}}}\n'],
        )
        file.writelines(piece.encode() for piece in pieces)
