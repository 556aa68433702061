"""What of a file of pseudo labels is exported: its masks by score, area and class, in splits."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...data.catalog import did_you_mean
from ...errors import UserError
from ...structures import decode_mask, encode_mask, mask_area, to_rle
from ...structures.masks import checked_size, fill_small_holes
from ..coco_format import MAX_SCORE, read_coco_json

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Selection:
    """What is exported.

    Attributes:
        min_score: masks below are left out; a mask without a score has 1. PRM's scores may be
            negative.
        min_area: masks of fewer pixels are left out.
        classes: names of the classes to export, in the order that formats with numbered classes
            give them; empty: all, in the order of their ids.
        keep_empty: export images without a mask, too. Most trainers take such an image for one
            that shows nothing, and its labels say that it does show something.
        max_hole: holes of so many pixels at most are filled.
    """

    min_score: float = -math.inf
    min_area: float = 0.0
    classes: Sequence[str] = ()
    keep_empty: bool = False
    max_hole: int = 0

    def __post_init__(self):
        for name, value in (("score", self.min_score), ("area", self.min_area)):
            if math.isnan(value):
                raise UserError(f"the least {name} is {value}: give a number")
        if self.max_hole < 0:
            raise UserError(f"the largest hole to fill is {self.max_hole}: give 0 or more pixels")


@dataclass(frozen=True)
class LabelMask:
    """An exported mask.

    Attributes:
        label: index in :attr:`LabelSet.classes`.
        rle: see :mod:`wsis_d2.structures.masks`.
        score: of the pseudo label.
        is_crowd: a region to ignore, no object.
    """

    label: int
    rle: Mapping[str, Any]
    score: float = 1.0
    is_crowd: bool = False


@dataclass(frozen=True)
class LabelImage:
    """An exported image; ``file_name`` is relative to the image folder, with slashes."""

    id: Hashable
    file_name: str
    height: int
    width: int
    split: str = TRAIN
    masks: tuple[LabelMask, ...] = ()

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return os.path.splitext(self.file_name)[0]

    @property
    def objects(self) -> list[LabelMask]:
        """The masks that are no crowd regions."""
        return [mask for mask in self.masks if not mask.is_crowd]


@dataclass
class LabelSet:
    """What is exported, and what was left out.

    Attributes:
        info: the ``info`` block of the file.
        category_ids: class name -> id in the file, in the order of the classes.
        images: in the order of the file.
        left_out: numbers of masks and images by the reason, for people.
        scores: of all masks of these classes, exported or not.
        filled_holes: how many, of the exported masks.
    """

    info: Mapping[str, Any]
    category_ids: dict[str, Hashable]
    images: list[LabelImage] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    filled_holes: int = 0

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels."""
        return list(self.category_ids)

    @property
    def splits(self) -> dict[str, list[LabelImage]]:
        """The images of each split that has any."""
        splits = {name: [i for i in self.images if i.split == name] for name in (TRAIN, VAL)}
        return {name: images for name, images in splits.items() if images}


def read_labels(path: str | os.PathLike, selection: Selection, val: str = "") -> LabelSet:
    """Read what a selection takes of a COCO dataset file.

    Args:
        path: the file.
        selection: what of it.
        val: which images are the split "val": a share of them such as "0.2", drawn by the hash of
            their names and so the same again; or a text file with one file name per line; empty:
            none.

    Raises:
        UserError: the file is missing or not in COCO format, a mask cannot be read, an image lacks
            its name or size, a name leads out of the image folder or stands twice, a class is
            unknown, nothing is left, ``val`` is neither a share nor a list of these images, or
            takes all of them.
    """
    content = read_coco_json(path)
    names = {category["id"]: category["name"] for category in content["categories"]}
    info = content.get("info")
    classes = _chosen_classes(path, names, selection.classes)
    labels = LabelSet(info if isinstance(info, dict) else {}, classes)
    by_image: dict[Hashable, list[dict]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in _images(path, content["images"]):
        annotations = by_image.pop(image.id, ())
        masks = tuple(_masks(path, image, annotations, names, labels, selection))
        image = replace(image, masks=masks)
        if image.objects or selection.keep_empty:
            labels.images.append(image)
        else:
            _count(labels, "images without a mask")
    for annotation in itertools.chain.from_iterable(by_image.values()):
        _count(labels, f"masks of image {annotation['image_id']!r}, which is not listed")
    if not labels.images:
        raise UserError(
            f"nothing of '{path}' is left to export{_range_of(labels.scores)}: lower the least "
            "score and area, or name other classes"
        )
    val_names = _val_names([image.file_name for image in labels.images], val)
    if len(val_names) == len(labels.images):
        raise UserError(
            f"val {val} takes all {len(labels.images)} images that are exported: leave some to "
            "train on"
        )
    labels.images = [
        replace(image, split=VAL) if image.file_name in val_names else image
        for image in labels.images
    ]
    return labels


def _count(labels: LabelSet, what: str) -> None:
    labels.left_out[what] = labels.left_out.get(what, 0) + 1


def _chosen_classes(path, names: Mapping[Hashable, Any], chosen: Sequence[str]) -> dict:
    """Class name -> category id."""
    by_number = all(isinstance(id_, int) for id_ in names)
    ids = {str(names[id_]): id_ for id_ in sorted(names, key=None if by_number else str)}
    if len(ids) < len(names):
        raise UserError(f"two categories of '{path}' have one name: give each its own")
    for name in ids:
        _check_printable(name, path)
    for name in chosen:
        if name not in ids:
            raise UserError(
                f"class '{name}' is not among the categories of '{path}'{did_you_mean(name, ids)}: "
                f"choose of {', '.join(ids)}"
            )
    return {name: ids[name] for name in chosen} if chosen else ids


def _check_printable(name: str, path) -> None:
    """Names become lines of text files, tags of XML and files."""
    if not name.isprintable():
        raise UserError(f"the name {name!r} in '{path}' has characters that cannot be shown")


def _images(path, entries: Sequence[Mapping[str, Any]]) -> Iterator[LabelImage]:
    seen = set()
    for entry in entries:
        try:
            name = os.path.normpath(entry["file_name"]).replace(os.sep, "/")
            height, width = checked_size((entry["height"], entry["width"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"image {entry['id']!r} of '{path}' has no file_name, height and width: add them"
            ) from None
        _check_printable(name, path)
        if os.path.isabs(name) or name.split("/")[0] in (os.curdir, os.pardir):
            raise UserError(
                f"image '{name}' of '{path}' is outside of the image folder: make its file_name "
                "relative to that folder"
            )
        if name in seen:
            raise UserError(f"image '{name}' stands twice in '{path}': remove one of the two")
        seen.add(name)
        yield LabelImage(entry["id"], name, height, width)


def _masks(
    path,
    image: LabelImage,
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[Hashable, Any],
    labels: LabelSet,
    selection: Selection,
) -> Iterator[LabelMask]:
    classes = {name: i for i, name in enumerate(labels.category_ids)}
    for annotation in annotations:
        where = f"annotation {annotation.get('id')} of image '{image.file_name}' in '{path}'"
        if annotation["category_id"] not in names:
            raise UserError(f"{where} has an unknown category: correct its category_id")
        label = classes.get(str(names[annotation["category_id"]]))
        if label is None:
            _count(labels, "masks of other classes")
            continue
        score = _score(annotation, where)
        is_crowd = bool(annotation.get("iscrowd", 0))
        if not is_crowd:
            labels.scores.append(score)
        if not is_crowd and score < selection.min_score:
            _count(labels, f"masks with a score below {selection.min_score:g}")
            continue
        try:
            rle = to_rle(annotation.get("segmentation"), (image.height, image.width))
        except ValueError as error:
            raise UserError(f"{where} is not a mask: {error}") from None
        if rle["size"] != [image.height, image.width]:
            raise UserError(f"{where} has another size than its image: correct one of the two")
        filled = 0
        if selection.max_hole and not is_crowd:
            mask, filled = fill_small_holes(decode_mask(rle), selection.max_hole)
            rle = encode_mask(mask)
        area = mask_area(rle)
        if not area:
            _count(labels, "masks without a pixel")
        elif area < selection.min_area and not is_crowd:
            _count(labels, f"masks of less than {selection.min_area:g} pixels")
        else:
            labels.filled_holes += filled
            yield LabelMask(label, rle, score, is_crowd)


def _range_of(scores: Sequence[float]) -> str:
    return f" (its scores are {min(scores):.3g} to {max(scores):.3g})" if scores else ""


def _score(annotation: Mapping[str, Any], where: str) -> float:
    try:
        score = float(annotation.get("score", 1.0))
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not abs(score) <= MAX_SCORE:
        raise UserError(f"{where} has a score that is no number: correct it")
    return score


def _val_names(names: Sequence[str], val: str) -> Collection[str]:
    """Names of the images in the split "val"."""
    try:
        share = float(val or 0)
    except ValueError:
        return _listed_names(names, val)
    if not 0 <= share < 1:
        raise UserError(f"the share of val is {val}: give a number from 0 to below 1")
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ordered[: round(share * len(ordered))])


def _listed_names(names: Sequence[str], path: str) -> Collection[str]:
    try:
        with open(path, encoding="utf-8") as file:
            listed = {os.path.normpath(line.strip()) for line in file if line.strip()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"the list of val, '{path}', cannot be read ({error}): give a share such as 0.2, or a "
            "text file with one file name per line"
        ) from error
    # Of lists such as VOC's, which leave the ending away, too.
    found = {name for name in names if {name, os.path.splitext(name)[0]} & listed}
    if not found:
        raise UserError(
            f"'{path}' lists no image that is exported: write file names as in the labels, such as "
            f"'{names[0]}'"
        )
    return found
