"""The doors for image-level labels: CSV, class folders, COCO JSON.

Every door gives the same standard dataset dicts::

    {"file_name": str, "image_id": int, "height": int, "width": int, "image_labels": list[int]}

``image_labels`` are sorted contiguous class ids. Where the source counts objects there is also
``image_counts``, a list[int] that goes with them: objects of each class, 0 where unknown. Mappers
pass the counts on only where they are the supervision, and only as lower counts (see
:func:`wsis_d2.data.make_image_level`).

A door reads class *names* and counts into :class:`ImageLabels` and nothing else, so no mask or box
of a JSON can reach a training stage.
"""

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..files import load_json
from ..structures.masks import checked_size
from .catalog import require_file, require_folder
from .image_files import IMAGE_EXTENSIONS, check_images_exist, read_image_sizes
from .image_labels import labels_and_counts

__all__ = ["load_class_folders", "load_coco_image_labels", "load_image_labels_csv"]

logger = logging.getLogger(__name__)

# `dog:2` and `cat:5+`: a class name and how many objects of it there are, or are at least.
_COUNT = re.compile(r"(?P<name>.*?)\s*:\s*(?P<count>\d+)(?P<or_more>\+?)", re.DOTALL)


_MAX_COUNT_DIGITS = 9


@dataclass(frozen=True)
class LabelOptions:
    """How label files are read.

    Attributes:
        skip_unlabeled: leave images of a CSV without labels out instead of raising.
        max_count: the largest exact count in a CSV, see :func:`load_image_labels_csv`.
    """

    skip_unlabeled: bool = False
    max_count: int = 4


@dataclass
class ImageLabels:
    """What a door reads."""

    source: str  # the file or folder, for messages
    # File name, relative to the image root -> class name -> number of objects, 0 where unknown.
    labels: dict[str, dict[str, int]]
    categories: dict[int, str]  # id in the source -> class name, in the order of the ids
    image_ids: dict[str, int] | None = None  # file name -> id in the source
    sizes: dict[str, tuple[int, int]] | None = None  # file name -> (height, width)


def load_image_labels_csv(
    path: str,
    image_root: str,
    classes: Sequence[str] | None = None,
    skip_unlabeled: bool = False,
    max_count: int = 4,
) -> list[dict]:
    """Load a CSV with the columns ``file_name`` and ``labels`` (others are ignored).

    Labels are class names separated by ``;``, each of which may have a count: ``dog:2`` (two) or
    ``cat:5+`` (five or more). UTF-8 with or without a byte order mark, any line ends, and quoted
    cells are understood. ``image_id`` is the 1-based position among the sorted file names.

    Args:
        path: the CSV.
        image_root: folder that ``file_name`` is relative to.
        classes: class names in the order of their ids; None: those in the file, sorted.
        skip_unlabeled: leave images without labels out (and log how many) instead of raising.
        max_count: counts up to this one are exact, so that ``5+`` is the least open one for 4.

    Returns:
        Dataset dicts, sorted by file name.

    Raises:
        UserError: the file, a column, an image or its label is missing; a file is listed twice; a
            label is not among ``classes``; a count is 0, is open though it is at most
            ``max_count``, or contradicts another; an image cannot be read.
    """
    return to_dataset_dicts(
        _read_csv(path, LabelOptions(skip_unlabeled, max_count)), image_root, classes
    )


def load_class_folders(image_root: str, classes: Sequence[str] | None = None) -> list[dict]:
    """Load images that lie in one folder per class, each with that one label.

    Args:
        image_root: folder of the class folders, whose images may lie in folders of their own.
        classes: class names in the order of their ids; None: the folders' names, sorted.

    Returns:
        Dataset dicts, sorted by file name; ``image_id`` is the 1-based position.

    Raises:
        UserError: no image is found, one lies outside of the class folders or cannot be read, or a
            folder with images is not among ``classes``.
    """
    return to_dataset_dicts(_read_class_folders(image_root), image_root, classes)


def load_coco_image_labels(
    json_file: str, image_root: str, classes: Sequence[str] | None = None
) -> list[dict]:
    """Load the categories of each image's annotations, and their number, from a COCO JSON.

    Every annotation counts one, a crowd's too (as Cholakkal et al., CVPR 2019, have it). Images
    without annotations are left out and counted in the log, as Detectron2 does when it trains on
    such a file. Sizes are taken from the JSON where it has them.

    Args:
        json_file: a JSON in COCO's instance format.
        image_root: folder that its ``file_name`` are relative to.
        classes: class names in the order of their contiguous ids; None: the categories in the
            order of their ids.

    Returns:
        Dataset dicts, sorted by file name, with the JSON's image ids.

    Raises:
        UserError: the file is missing or not in COCO's format, an image is absent, or a category
            is not among ``classes``.
    """
    return to_dataset_dicts(_read_coco_json(json_file), image_root, classes)


def read_labels(image_root: str, labels: str, options: LabelOptions) -> ImageLabels:
    """Choose the door: a ``.csv``, a COCO ``.json``, or nothing for one folder per class."""
    if not labels:
        return _read_class_folders(image_root)
    extension = os.path.splitext(labels)[1].lower()
    if extension == ".csv":
        return _read_csv(labels, options)
    if extension == ".json":
        return _read_coco_json(labels)
    raise UserError(
        f"labels '{labels}' are neither a .csv nor a .json file: give one of these, or nothing "
        "where the image folder has one folder per class"
    )


def _read_csv(path: str, options: LabelOptions) -> ImageLabels:
    require_file(path, "the label file")
    labels: dict[str, dict[str, int]] = {}
    unlabelled = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            if not {"file_name", "labels"} <= set(columns):
                raise UserError(
                    f"'{path}' lacks the columns file_name and labels (its first line is "
                    f"'{','.join(columns)}'): make 'file_name,labels' its first line"
                )
            reader.fieldnames = columns
            for row in reader:
                where = f"line {reader.line_num} of '{path}'"
                if None in row:
                    raise UserError(
                        f"{where} has more cells than the first line: separate labels by ';' and "
                        "quote names with commas"
                    )
                file_name = os.path.normpath((row["file_name"] or "").strip())
                if file_name == ".":
                    raise UserError(f"{where} has no file name: fill it in or remove the line")
                if file_name in labels:
                    raise UserError(
                        f"{where} lists '{file_name}' a second time: put all labels of an image "
                        "on one line, separated by ';'"
                    )
                labels[file_name] = _split_labels(row["labels"] or "", where, options.max_count)
                if not labels[file_name]:
                    unlabelled.append((reader.line_num, file_name))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"'{path}' is no CSV file in UTF-8 ({error}): save it as 'CSV UTF-8'"
        ) from error
    if unlabelled and options.skip_unlabeled:
        logger.warning(f"{len(unlabelled)} images of '{path}' have no labels: left out")
        for _, file_name in unlabelled:
            del labels[file_name]
    elif unlabelled:
        lines = ", ".join(str(line) for line, _ in unlabelled[:10])
        raise UserError(
            f"image '{unlabelled[0][1]}' has no labels in '{path}' ({len(unlabelled)} such lines: "
            f"{lines}{', ...' if len(unlabelled) > 10 else ''}): label these images, remove the "
            "lines, or set SKIP_UNLABELED of the dataset"
        )
    if not labels:
        raise UserError(f"'{path}' lists no image: add one line per image")
    names = sorted({name for names in labels.values() for name in names})
    return ImageLabels(path, labels, dict(enumerate(names, start=1)))


def _split_labels(cell: str, where: str, max_count: int) -> dict[str, int]:
    """Class names and counts of a cell, 0 for a name without one."""
    counts: dict[str, int] = {}
    for label in filter(None, map(str.strip, cell.split(";"))):
        match = _COUNT.fullmatch(label)
        if not match:
            counts.setdefault(label, 0)
            continue
        if len(match["count"]) > _MAX_COUNT_DIGITS:
            raise UserError(
                f"a label in {where} counts more than {_MAX_COUNT_DIGITS} digits of objects: "
                "correct the number"
            )
        name, count = match["name"], int(match["count"])
        if not name or not count:
            raise UserError(
                f"label '{label}' in {where} {'has no class name' if count else 'counts nothing'}: "
                "write '<class>:<count>' with a count from 1, or leave the label away"
            )
        if match["or_more"] and count <= max_count:
            raise UserError(
                f"label '{label}' in {where} leaves a count open that must be exact (up to "
                f"{max_count}): write '{name}:{count}' or '{name}:{max_count + 1}+', or lower "
                "DATASETS.MAX_COUNT"
            )
        if counts.get(name, 0) not in (0, count):
            raise UserError(
                f"{where} counts '{name}' twice, {counts[name]} and {count}: write it once"
            )
        counts[name] = count
    return counts


def _read_class_folders(image_root: str) -> ImageLabels:
    require_folder(image_root, "the image folder")
    labels: dict[str, dict[str, int]] = {}
    class_names = []
    for entry in sorted(os.scandir(image_root), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            class_names.append(entry.name)
            labels.update((name, {entry.name: 0}) for name in _images_below(image_root, entry.name))
        elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
            raise UserError(
                f"image '{entry.path}' lies outside of the class folders: move it into the folder "
                "of its class, or name a label file"
            )
    if not labels:
        raise UserError(
            f"'{image_root}' has no images in class folders: make one folder per class there, or "
            "name a label file"
        )
    return ImageLabels(image_root, labels, dict(enumerate(class_names, start=1)))


def _images_below(image_root: str, folder: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), image_root)
        for parent, _, names in os.walk(os.path.join(image_root, folder))
        for name in names
        if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
    ]


def _read_coco_json(path: str) -> ImageLabels:
    content = load_coco_file(path, ("images", "annotations", "categories"))
    try:
        categories = coco_categories(content, path)
        counts: dict[int, Counter[str]] = {id_: Counter() for _, id_ in coco_images(content, path)}
        for annotation in content["annotations"]:
            counts[annotation["image_id"]][categories[annotation["category_id"]]] += 1
        images = [image for image in content["images"] if counts[image["id"]]]
        if not images:
            raise UserError(f"'{path}' has no annotated image: check that it is the right file")
        if len(images) < len(content["images"]):
            logger.warning(
                "%d of the %d images of %s have no annotation, so no label, and are left out",
                len(content["images"]) - len(images),
                len(content["images"]),
                path,
            )
        file_names = [os.path.normpath(image["file_name"]) for image in images]
        twice = [name for name, count in Counter(file_names).items() if count > 1]
        if twice:
            raise UserError(f"'{path}' lists the image '{twice[0]}' twice: remove one of the two")
        has_sizes = all("height" in image and "width" in image for image in images)
        return ImageLabels(
            source=path,
            labels={name: counts[im["id"]] for name, im in zip(file_names, images)},
            categories=categories,
            image_ids={name: image["id"] for name, image in zip(file_names, images)},
            sizes={
                name: checked_size((im["height"], im["width"]))
                for name, im in zip(file_names, images)
            }
            if has_sizes
            else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise not_coco(path, f"missing or unknown: {error}") from error


def load_coco_file(path: str, keys: Sequence[str]) -> dict:
    """Content of a COCO JSON, which must have these keys."""
    require_file(path, "the COCO JSON file")
    content = load_json(path)
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise not_coco(path, f"it needs the keys {', '.join(keys)}")
    return content


def coco_images(content: dict, path: str) -> list[tuple[str, int]]:
    """File name and id of each image."""
    images = [(os.path.normpath(image["file_name"]), image["id"]) for image in content["images"]]
    for name, image_id in images:
        if not isinstance(image_id, int | str):
            raise not_coco(path, f"image '{name}' has no id")
    return images


def coco_categories(content: dict, path: str) -> dict[int, str]:
    """Category id -> class name, in the order of the ids."""
    categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
    if not all(isinstance(name, str) for name in categories.values()):
        raise not_coco(path, "a category's name is no text")
    check_class_names(list(categories.values()), path)
    return categories


def not_coco(path: str, why: str) -> UserError:
    """The error for a file that is no COCO JSON."""
    return UserError(
        f"'{path}' is not in COCO's instance format ({why}): give a JSON with images, annotations "
        "and categories"
    )


def check_class_names(names: Sequence[str], source: str) -> None:
    """Raise a :class:`UserError` where a name of ``source`` stands twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"class '{twice[0]}' is named twice in {source}: give each class one name")


def to_dataset_dicts(
    read: ImageLabels, image_root: str, classes: Sequence[str] | None
) -> list[dict]:
    """What a door has read as dataset dicts; see the module."""
    require_folder(image_root, "the image folder")
    class_names = list(read.categories.values()) if classes is None else list(classes)
    check_class_names(class_names, "the list of classes")
    class_ids = {name: i for i, name in enumerate(class_names)}
    file_names = sorted(read.labels)
    labels = [
        labels_and_counts(read.labels[name], class_ids, name, read.source) for name in file_names
    ]
    paths = [os.path.join(image_root, name) for name in file_names]
    check_images_exist(paths, read.source)
    if read.sizes is None:
        sizes = read_image_sizes(paths)
    else:
        sizes = [read.sizes[name] for name in file_names]
    return [
        {
            "file_name": path,
            "image_id": index if read.image_ids is None else read.image_ids[name],
            "height": height,
            "width": width,
            **found,
        }
        for index, (name, path, (height, width), found) in enumerate(
            zip(file_names, paths, sizes, labels), start=1
        )
    ]
