"""The doors for image-level labels: CSV, JSON lines, class folders, COCO and Label Studio JSON.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..files import load_json
from ..structures.masks import checked_size
from .catalog import require_file, require_folder
from .image_files import IMAGE_EXTENSIONS, check_images_exist, read_image_sizes
from .image_labels import labels_and_counts
from .label_files import quoted_names, read_jsonl_labels, read_label_studio_choices

__all__ = [
    "load_class_folders",
    "load_coco_image_labels",
    "load_image_labels_csv",
    "load_image_labels_jsonl",
    "load_label_studio_choices",
]

logger = logging.getLogger(__name__)

_COCO_KEYS = ("images", "annotations", "categories")

# Folders of datasets that are split, such as those that YOLO and Hugging Face read.
_SPLITS = {"train", "val", "valid", "validation", "test"}

# `dog:2` and `cat:5+`: a class name and how many objects of it there are, or are at least.
_COUNT = re.compile(r"(?P<name>.*?)\s*:\s*(?P<count>\d+)(?P<or_more>\+?)", re.DOTALL)


_MAX_COUNT_DIGITS = 9


@dataclass(frozen=True)
class LabelOptions:
    """How label files are read.

    Attributes:
        skip_unlabeled: leave images of a label file without labels out instead of raising.
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

    So is the ``metadata.csv`` of a Hugging Face ``imagefolder``, whose column may be ``label``, and
    whose cells may be lists: ``["dog", "cat"]``.

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


def load_image_labels_jsonl(
    path: str,
    image_root: str,
    classes: Sequence[str] | None = None,
    skip_unlabeled: bool = False,
) -> list[dict]:
    """Load JSON lines, such as the ``metadata.jsonl`` of a Hugging Face ``imagefolder``.

    Args:
        path: the file; an object per line with ``file_name``, and ``label`` or ``labels``: a class
            name (a number is the name of its digits) or a list of them.
        image_root: folder that ``file_name`` is relative to.
        classes: class names in the order of their ids; None: those in the file, sorted.
        skip_unlabeled: leave images without labels out (and log how many) instead of raising.

    Returns:
        Dataset dicts, sorted by file name; ``image_id`` is the 1-based position.

    Raises:
        UserError: the file, an image or its label is missing; a line is no such object; a file is
            listed twice; a label is not among ``classes``; an image cannot be read.
    """
    return to_dataset_dicts(_read_jsonl(path, LabelOptions(skip_unlabeled)), image_root, classes)


def load_label_studio_choices(
    json_file: str,
    image_root: str,
    classes: Sequence[str] | None = None,
    skip_unlabeled: bool = False,
) -> list[dict]:
    """Load what annotators chose for images in Label Studio.

    Only choices are read, no boxes or masks. Of a task with several annotations, a choice counts
    that at least half of them have. An image's address is matched with the folder by its end, the
    longest that is a file there; the prefix of an upload's name is tried without, too.

    Args:
        json_file: the project's export as "JSON" or "JSON-MIN".
        image_root: folder of the images.
        classes: class names in the order of their ids; None: those in the file, sorted.
        skip_unlabeled: leave tasks without a choice out (and log how many) instead of raising.

    Returns:
        Dataset dicts, sorted by file name; ``image_id`` is the 1-based position.

    Raises:
        UserError: the file is missing or no such export, a task has no choice, an image is absent
            or stands twice, or a choice is not among ``classes``.
    """
    require_file(json_file, "the label file")
    options = LabelOptions(skip_unlabeled)
    read = _label_studio_labels(load_json(json_file), json_file, image_root, options)
    return to_dataset_dicts(read, image_root, classes)


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
    """Choose the door: a ``.csv``, ``.jsonl`` or ``.json`` (of COCO or Label Studio), or nothing
    for one folder per class."""
    if not labels:
        return _read_class_folders(image_root)
    extension = os.path.splitext(labels)[1].lower()
    if extension == ".csv":
        return _read_csv(labels, options)
    if extension == ".jsonl":
        return _read_jsonl(labels, options)
    if extension == ".json":
        return _read_json(labels, image_root, options)
    raise UserError(
        f"labels '{labels}' are neither a .csv nor a .json or .jsonl file: give one of these, or "
        "nothing where the image folder has one folder per class"
    )


def _read_csv(path: str, options: LabelOptions) -> ImageLabels:
    require_file(path, "the label file")
    return _from_entries(_csv_entries(path, options.max_count), path, options)


def _csv_entries(path: str, max_count: int) -> Iterable[tuple[int, str, dict[str, int]]]:
    """Line, file name, and class names with their counts."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            column = "labels" if "labels" in columns else "label"
            if not {"file_name", column} <= set(columns):
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
                labels = _split_labels(row[column] or "", where, max_count)
                yield reader.line_num, row["file_name"] or "", labels
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"'{path}' is no CSV file in UTF-8 ({error}): save it as 'CSV UTF-8'"
        ) from error


def _from_entries(
    entries: Iterable[tuple[int, str, dict[str, int]]],
    path: str,
    options: LabelOptions,
    unit: str = "line",
) -> ImageLabels:
    """What a file says that lists its images one by one.

    Args:
        entries: number of the line or task, file name, and class names with their counts.
        path: the file.
        options: what to do with images without labels.
        unit: what has the number.

    Raises:
        UserError: a file name is missing or listed twice, an image has no label, or there is none.
    """
    labels: dict[str, dict[str, int]] = {}
    unlabelled = []
    for number, name, found in entries:
        where = f"{unit} {number} of '{path}'"
        file_name = os.path.normpath(name.strip())
        if file_name == ".":
            raise UserError(f"{where} has no file name: fill it in or remove the {unit}")
        if file_name in labels:
            raise UserError(
                f"{where} lists '{file_name}' a second time: put all labels of an image on one "
                f"{unit}"
            )
        labels[file_name] = found
        if not found:
            unlabelled.append((number, file_name))
    if unlabelled and options.skip_unlabeled:
        logger.warning(f"{len(unlabelled)} images of '{path}' have no labels: left out")
        for _, file_name in unlabelled:
            del labels[file_name]
    elif unlabelled:
        numbers = ", ".join(str(number) for number, _ in unlabelled[:10])
        raise UserError(
            f"image '{unlabelled[0][1]}' has no labels in '{path}' ({len(unlabelled)} such "
            f"{unit}s: {numbers}{', ...' if len(unlabelled) > 10 else ''}): label these images, "
            f"remove the {unit}s, or set SKIP_UNLABELED of the dataset"
        )
    if not labels:
        raise UserError(f"'{path}' lists no image: add one {unit} per image")
    names = sorted({name for names in labels.values() for name in names})
    return ImageLabels(path, labels, dict(enumerate(names, start=1)))


def _read_jsonl(path: str, options: LabelOptions) -> ImageLabels:
    entries = ((line, file, _uncounted(names)) for line, file, names in read_jsonl_labels(path))
    return _from_entries(entries, path, options)


def _uncounted(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(filter(None, map(str.strip, names)), 0)


def _read_json(path: str, image_root: str, options: LabelOptions) -> ImageLabels:
    require_file(path, "the label file")
    content = load_json(path)
    if isinstance(content, list):
        return _label_studio_labels(content, path, image_root, options)
    return _coco_labels(check_coco(content, path, _COCO_KEYS), path)


def _label_studio_labels(
    content: Any, path: str, image_root: str, options: LabelOptions
) -> ImageLabels:
    if not isinstance(content, list):
        raise UserError(
            f"'{path}' is no export of Label Studio, which is a list of tasks: export the project "
            "as JSON"
        )
    entries = (
        (number, _existing_file(files, image_root), _uncounted(names))
        for number, files, names in read_label_studio_choices(content, path)
    )
    return _from_entries(entries, path, options, unit="task")


def _existing_file(files: Sequence[str], image_root: str) -> str:
    """The first that is in the folder; the last where none is."""
    paths = (file for file in files if os.path.isfile(os.path.join(image_root, file)))
    return next(paths, files[-1])


def _split_labels(cell: str, where: str, max_count: int) -> dict[str, int]:
    """Class names and counts of a cell, 0 for a name without one."""
    names = quoted_names(cell.strip())
    if names is not None:
        return _uncounted(names)
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
    if "train" in class_names and set(class_names) <= _SPLITS and _lie_deeper(labels):
        raise UserError(
            f"'{image_root}' has the folders of a split dataset ({', '.join(class_names)}), not of "
            f"classes: give '{os.path.join(image_root, 'train')}' as the image folder"
        )
    if not labels:
        raise UserError(
            f"'{image_root}' has no images in class folders: make one folder per class there, or "
            "name a label file"
        )
    return ImageLabels(image_root, labels, dict(enumerate(class_names, start=1)))


def _lie_deeper(file_names: Iterable[str]) -> bool:
    """Whether each file lies in a folder of a folder at least."""
    return all(file_name.count(os.sep) > 1 for file_name in file_names)


def _images_below(image_root: str, folder: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), image_root)
        for parent, _, names in os.walk(os.path.join(image_root, folder))
        for name in names
        if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
    ]


def _read_coco_json(path: str) -> ImageLabels:
    return _coco_labels(load_coco_file(path, _COCO_KEYS), path)


def _coco_labels(content: dict, path: str) -> ImageLabels:
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
    return check_coco(load_json(path), path, keys)


def check_coco(content: Any, path: str, keys: Sequence[str]) -> dict:
    """The content of the file ``path``, which must be an object with these keys."""
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
