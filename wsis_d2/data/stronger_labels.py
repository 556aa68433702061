"""More than image labels for some of the images: points, boxes and masks from a COCO JSON.

What an image has of a class is complete: its annotations of a class are all objects of that class
that it shows. Of classes without annotations in an image nothing is known but the image label.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ..errors import UserError
from ..structures import decode_mask, encode_mask, mask_area, resize_masks, to_rle
from ..structures.masks import RLE, checked_size
from .catalog import dataset_dicts, did_you_mean
from .label_readers import coco_categories, coco_images, load_coco_file, not_coco

__all__ = ["StrongerLabel", "read_stronger_labels", "resize_stronger_label"]

# Beyond it a number is no coordinate.
_MAX_COORDINATE = 1e9


@dataclass(frozen=True)
class StrongerLabel:
    """What is known of one object; one of the last three is given.

    Attributes:
        class_id: contiguous.
        mask: all its pixels.
        box: (x0, y0, x1, y1), pixel edges, inside the image, of positive area.
        point: (x, y), inside the image or on its edge.
    """

    class_id: int
    mask: RLE | None = None
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """What is given: "mask", "box" or "point"."""
        return "mask" if self.mask else "box" if self.box else "point"


def read_stronger_labels(path: str, dataset_name: str) -> dict[Hashable, list[StrongerLabel]]:
    """Read points, boxes and masks of some images of a dataset.

    Images are known by their file names, classes by their names, as in the image labels' own doors;
    ids may be others. An annotation with a ``segmentation`` is a mask, one with a ``bbox`` of some
    area a box, and one with a ``point`` [x, y] or ``keypoints`` (the first visible one counts) a
    point. Crowd regions are left out.

    Args:
        path: a JSON in COCO's instance format.
        dataset_name: a registered dataset with image labels.

    Returns:
        The labels of each image that has any, by its ``image_id`` in the dataset.

    Raises:
        UserError: the file is missing or not in COCO's format, an image or class is not the
            dataset's, an image's size is another, or an annotation is none of these or outside of
            its image.
    """
    content = load_coco_file(path, ("images", "annotations", "categories"))
    try:
        return _Reader(content, path, dataset_name).read()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise not_coco(path, f"missing or unknown: {error}") from error


def resize_stronger_label(
    label: StrongerLabel, size: tuple[int, int], new_size: tuple[int, int]
) -> StrongerLabel:
    """The label on its image of another (height, width)."""
    if size == new_size:
        return label
    if label.mask is not None:
        return replace(label, mask=encode_mask(resize_masks(decode_mask(label.mask), new_size)))
    y, x = (new / old for new, old in zip(new_size, size))
    if label.box is not None:
        x0, y0, x1, y1 = label.box
        return replace(label, box=(x0 * x, y0 * y, x1 * x, y1 * y))
    return replace(label, point=(label.point[0] * x, label.point[1] * y))


class _Reader:
    def __init__(self, content: dict, path: str, dataset_name: str):
        root = MetadataCatalog.get(dataset_name).get("image_root") or os.curdir
        images = {os.path.relpath(d["file_name"], root): d for d in dataset_dicts(dataset_name)}
        self._content, self._path, self._dataset_name = content, path, dataset_name
        names = MetadataCatalog.get(dataset_name).thing_classes
        self._class_ids = {name: i for i, name in enumerate(names)}
        self._categories = coco_categories(content, path)
        self._images = self._find_images(images)

    def _find_images(self, images: Mapping[str, dict]) -> dict[Hashable, dict]:
        """The dataset's image of each image id of the file."""
        listed = coco_images(self._content, self._path)
        twice = [name for name, count in Counter(name for name, _ in listed).items() if count > 1]
        if twice:
            raise UserError(
                f"'{self._path}' lists the image '{twice[0]}' twice: remove one of the two"
            )
        for (name, _), image in zip(listed, self._content["images"]):
            if name not in images:
                raise UserError(
                    f"image '{name}' in '{self._path}' is not in dataset '{self._dataset_name}'"
                    f"{did_you_mean(name, images)}: correct its file_name or remove the image"
                )
            size = (int(images[name]["height"]), int(images[name]["width"]))
            if "height" in image and "width" in image:
                said = checked_size((image["height"], image["width"]))
                if said != size:
                    raise UserError(
                        f"image '{name}' is of {said[0]} x {said[1]} pixels in '{self._path}' and "
                        f"of {size[0]} x {size[1]} in dataset '{self._dataset_name}': annotate the "
                        "image at its own size"
                    )
        return {image_id: images[name] for name, image_id in listed}

    def read(self) -> dict[Hashable, list[StrongerLabel]]:
        labels = defaultdict(list)
        for number, annotation in enumerate(self._content["annotations"]):
            image = self._images[annotation["image_id"]]
            if not annotation.get("iscrowd", 0):
                labels[image["image_id"]].append(self._label(annotation, number, image))
        return dict(labels)

    def _label(self, annotation: Mapping, number: int, image: Mapping) -> StrongerLabel:
        where = (
            f"annotation {annotation.get('id', number)} of image "
            f"'{os.path.basename(image['file_name'])}' in '{self._path}'"
        )
        name = self._categories[annotation["category_id"]]
        if name not in self._class_ids:
            raise UserError(
                f"class '{name}' of {where} is not among those of dataset '{self._dataset_name}'"
                f"{did_you_mean(name, self._class_ids)}: correct it or remove the annotation"
            )
        size = (int(image["height"]), int(image["width"]))
        try:
            return StrongerLabel(self._class_ids[name], **_place(annotation, size))
        except ValueError as error:
            raise UserError(f"{where} cannot be used: {error}") from None


def _place(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """What of a StrongerLabel an annotation gives; a ValueError says what is wrong with it."""
    if annotation.get("segmentation"):
        mask = to_rle(annotation["segmentation"], size)
        if tuple(mask["size"]) != size:
            raise ValueError(f"its mask is not of the image's {size[0]} x {size[1]} pixels")
        if not mask_area(mask):
            raise ValueError("its mask is empty")
        return {"mask": mask}
    point = annotation.get("point") or _first_visible(annotation.get("keypoints") or ())
    x, y, width, height = _numbers(annotation.get("bbox") or (0, 0, 0, 0), 4, "bbox")
    # Tools write an empty box around a point.
    if point and not (width > 0 and height > 0):
        return {"point": _point(point, size)}
    if width > 0 and height > 0:
        corners = np.clip([x, y, x + width, y + height], 0, [size[1], size[0]] * 2)
        if (corners[2:] <= corners[:2]).any():
            raise ValueError(f"its bbox lies outside its image of {size[0]} x {size[1]} pixels")
        return {"box": tuple(corners.tolist())}
    raise ValueError(
        "it has no segmentation, no bbox of some area, no point and no visible keypoint: complete "
        "or remove it"
    )


def _point(value: Any, size: tuple[int, int]) -> tuple[float, float]:
    x, y = _numbers(value, 2, "point")
    if not (0 <= x <= size[1] and 0 <= y <= size[0]):
        raise ValueError(f"its point lies outside its image of {size[0]} x {size[1]} pixels")
    return x, y


def _first_visible(keypoints: Sequence) -> Sequence | None:
    """[x, y] of the first of COCO's [x, y, visibility, ...] that is labelled."""
    numbers = _numbers(keypoints, len(keypoints) // 3 * 3, "keypoints")
    points = zip(*(numbers[i::3] for i in range(3)))
    return next(((x, y) for x, y, visibility in points if visibility > 0), None)


def _numbers(values: Any, count: int, what: str) -> list[float]:
    is_list = isinstance(values, list | tuple) and len(values) == count
    if not is_list or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _MAX_COORDINATE
        for v in values
    ):
        raise ValueError(f"its {what} is not {count} numbers")
    return [float(v) for v in values]
