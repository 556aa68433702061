"""The user's own images and image-level labels: CSV, class folders, COCO JSON.

Every door gives the same standard dataset dicts::

    {"file_name": str, "image_id": int, "height": int, "width": int, "image_labels": list[int]}

``image_labels`` are sorted contiguous class ids. Where the source counts objects there is also
``image_counts``, a list[int] that goes with them: objects of each class, 0 where unknown. Mappers
pass the counts on only where they are the supervision, and only as lower counts (see
:func:`make_image_level`). A door reads class *names* and counts into :class:`_ImageLabels` and
nothing else, so no mask or box of a JSON can reach a training stage.
"""

import csv
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from wsis_d2.errors import UserError

from .catalog import (
    did_you_mean,
    register_coco_json,
    replace_dataset,
    require_file,
    require_folder,
)
from .image_files import IMAGE_EXTENSIONS, check_images_exist, read_image_sizes
from .sem_seg import register_label_maps, register_painted_instances

__all__ = [
    "check_image_level_dataset",
    "load_class_folders",
    "load_coco_image_labels",
    "load_image_labels_csv",
    "make_image_level",
    "register_image_level_dataset",
    "register_own_datasets",
    "register_pseudo_labels",
]

logger = logging.getLogger(__name__)

# `dog:2` and `cat:5+`: a class name and how many objects of it there are, or are at least.
_COUNT = re.compile(r"(?P<name>.*?)\s*:\s*(?P<count>\d+)(?P<or_more>\+?)", re.DOTALL)


@dataclass
class _ImageLabels:
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
    return _dataset_dicts(_read_csv(path, skip_unlabeled, max_count), image_root, classes)


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
    return _dataset_dicts(_read_class_folders(image_root), image_root, classes)


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
    return _dataset_dicts(_read_coco_json(json_file), image_root, classes)


def register_image_level_dataset(
    name: str,
    image_root: str,
    labels: str = "",
    classes: Sequence[str] = (),
    gt_json: str = "",
    skip_unlabeled: bool = False,
    max_count: int = 4,
) -> None:
    """Register images with image-level labels as a dataset.

    Images are looked at when the dataset is used. The label files are read now where the class
    names must be found there (``classes`` empty) or matched with a JSON's category ids, because
    models are built from the metadata. Registering a name again replaces it.

    Args:
        name: name to use in DATASETS.TRAIN and DATASETS.TEST.
        image_root: folder of the images.
        labels: a ``.csv`` or COCO ``.json``; empty: ``image_root`` has one folder per class.
        classes: class names in the order of their contiguous ids; empty: the categories of
            ``gt_json``, else those of the labels.
        gt_json: COCO JSON with true masks, which only evaluators read. Image ids and category ids
            of the dataset are then those of this file.
        skip_unlabeled: leave images of a CSV without labels out instead of raising.
        max_count: the largest exact count in a CSV, see :func:`load_image_labels_csv`.

    Raises:
        UserError: a file is missing or malformed (see the ``load_*`` functions of this module).
    """
    options = (skip_unlabeled, max_count)
    categories = _categories(image_root, labels, classes, gt_json, options)
    class_names = list(categories.values())

    def load() -> list[dict]:
        found = _read_labels(image_root, labels, *options)
        dicts = _dataset_dicts(found, image_root, class_names)
        return _with_ground_truth_ids(dicts, image_root, gt_json) if gt_json else dicts

    replace_dataset(
        name,
        load,
        thing_classes=class_names,
        thing_dataset_id_to_contiguous_id={id_: i for i, id_ in enumerate(categories)},
        image_root=image_root,
        gt_json=gt_json,
        supervision="image_labels",
    )


def register_own_datasets(cfg: CfgNode) -> None:
    """Register the datasets that a config describes.

    These are DATASETS.OWN_TRAIN and DATASETS.OWN_TEST where IMAGE_ROOT is set, with GT_JSON also as
    stock datasets of label maps (``own_test_sem_seg``), and DATASETS.PSEUDO where JSON (a stock
    COCO dataset) or SEM_SEG_ROOT (label maps) is set. The test set takes the training set's classes
    unless it names its own, so that a class that it lacks cannot shift the ids.

    Args:
        cfg: a config with the plugin's keys.

    Raises:
        UserError: see :func:`register_image_level_dataset`.
    """
    classes: tuple[str, ...] = ()
    for own in (cfg.DATASETS.OWN_TRAIN, cfg.DATASETS.OWN_TEST):
        if own.IMAGE_ROOT:
            register_image_level_dataset(
                own.NAME,
                own.IMAGE_ROOT,
                own.LABELS,
                own.CLASSES or classes,
                own.GT_JSON,
                own.SKIP_UNLABELED,
                cfg.DATASETS.MAX_COUNT,
            )
            classes = tuple(MetadataCatalog.get(own.NAME).thing_classes)
            if own.GT_JSON:
                register_painted_instances(f"{own.NAME}_sem_seg", own.NAME)
    pseudo = cfg.DATASETS.PSEUDO
    if pseudo.SEM_SEG_ROOT:
        register_label_maps(pseudo.SEM_SEG_NAME, pseudo.SEM_SEG_ROOT, pseudo.SOURCE)
    if pseudo.JSON:
        register_pseudo_labels(
            pseudo.NAME, pseudo.JSON, pseudo.IMAGE_ROOT, pseudo.SOURCE, pseudo.SAMPLE_CANDIDATES
        )


def register_pseudo_labels(
    name: str,
    json_file: str,
    image_root: str = "",
    source: str = "",
    keep_candidates: bool = False,
) -> None:
    """Register a COCO JSON of pseudo labels as a stock dataset.

    Args:
        name: of the dataset.
        json_file: the JSON.
        image_root: folder of its images; empty: that of ``source``.
        source: name of the dataset that was labelled.
        keep_candidates: whether :class:`InstanceMapper` is to draw each object's mask from its
            ``candidates``.

    Raises:
        UserError: ``source`` is needed and not registered.
    """
    if not image_root and source:
        if source not in DatasetCatalog:
            raise UserError(
                f"dataset '{source}', DATASETS.PSEUDO.SOURCE, is not registered"
                f"{did_you_mean(source, DatasetCatalog.list())}: correct it, name the "
                "files of your own dataset in DATASETS.OWN_TRAIN, or set "
                "DATASETS.PSEUDO.IMAGE_ROOT"
            )
        image_root = MetadataCatalog.get(source).image_root
    extra_keys = ("candidates",) if keep_candidates else ()
    register_coco_json(name, json_file, image_root, extra_keys=extra_keys, gt_json="")


def make_image_level(dataset_dicts: Iterable[dict], max_count: int | None = None) -> list[dict]:
    """Reduce dataset dicts of any kind to image-level ones.

    Args:
        dataset_dicts: with ``image_labels``, or stock ones with ``annotations``, whose categories
            become the labels.
        max_count: pass lower counts on too: exact ones up to this number, and ``max_count + 1``
            for every larger one. None: no counts.

    Returns:
        Dicts that hold ``file_name``, ``image_id``, ``height``, ``width`` (where known) and
        ``image_labels`` (where the input has labels or annotations), and with ``max_count`` also
        ``image_counts`` (where the input has them or annotations). Masks, boxes and everything
        else stay behind.
    """
    image_level = []
    for dataset_dict in dataset_dicts:
        kept = {
            key: dataset_dict[key]
            for key in ("file_name", "image_id", "height", "width")
            if key in dataset_dict
        }
        counts = _image_counts(dataset_dict)
        if counts is not None:
            kept["image_labels"] = sorted(counts)
            if max_count is not None and any(counts.values()):
                kept["image_counts"] = [min(counts[c], max_count + 1) for c in sorted(counts)]
        image_level.append(kept)
    return image_level


def _image_counts(dataset_dict: dict) -> dict[int, int] | None:
    """Class id -> number of objects, 0 where unknown; None where the dict has no labels."""
    if "image_labels" in dataset_dict:
        labels = [int(label) for label in dataset_dict["image_labels"]]
        return dict(zip(labels, dataset_dict.get("image_counts") or [0] * len(labels)))
    if "annotations" in dataset_dict:
        return Counter(annotation["category_id"] for annotation in dataset_dict["annotations"])
    return None


def check_image_level_dataset(
    dataset_dicts: Sequence[dict], class_names: Sequence[str], need_counts: bool = False
) -> None:
    """Check that a classifier can be trained on a dataset.

    Args:
        dataset_dicts: image-level dataset dicts.
        class_names: class names in the order of their contiguous ids.
        need_counts: whether every label must have a count.

    Raises:
        UserError: there is no image, an image has no label, a label is no class id, or a count is
            needed and unknown.
    """
    if not dataset_dicts:
        raise UserError("the dataset has no image: check DATASETS.TRAIN and the dataset's files")
    for dataset_dict in dataset_dicts:
        labels = dataset_dict.get("image_labels")
        if not labels:
            raise UserError(
                f"image '{dataset_dict['file_name']}' has no label: label it or remove it from "
                "the dataset"
            )
        unknown = [label for label in labels if not 0 <= label < len(class_names)]
        if unknown:
            raise UserError(
                f"image '{dataset_dict['file_name']}' has the label id {unknown[0]}, but the "
                f"dataset has {len(class_names)} classes (ids 0 to {len(class_names) - 1}): check "
                "that labels and class names belong together"
            )
        counts = dataset_dict.get("image_counts") or [0] * len(labels)
        if need_counts and not all(counts):
            name = class_names[labels[counts.index(0)]]
            raise UserError(
                f"label '{name}' of image '{dataset_dict['file_name']}' has no count, which "
                f"DATASETS.SUPERVISION 'image_counts' needs: write '{name}:1', '{name}:2', ... in "
                "a CSV, use labels that count objects (CSV, VOC or COCO annotations), or set "
                "DATASETS.SUPERVISION to 'image_labels'"
            )


def labels_and_counts(
    counts: Mapping[str, int], class_ids: dict[str, int], file_name: str, source: str
) -> dict[str, list[int]]:
    """``image_labels``, and ``image_counts`` where one is known, of an image.

    Args:
        counts: class name -> number of objects, 0 where unknown.
        class_ids: class name -> contiguous id.
        file_name, source: for the message.

    Raises:
        UserError: a name is not among the classes.
    """
    for name in counts:
        if name not in class_ids:
            known = ", ".join(list(class_ids)[:20]) + (", ..." if len(class_ids) > 20 else "")
            raise UserError(
                f"label '{name}' of image '{file_name}' in '{source}' is not among the classes"
                f"{did_you_mean(name, class_ids)}: correct it or add it to the classes ({known})"
            )
    by_id = sorted((class_ids[name], count) for name, count in counts.items())
    found = {"image_labels": [class_id for class_id, _ in by_id]}
    if any(counts.values()):
        found["image_counts"] = [count for _, count in by_id]
    return found


def _read_labels(
    image_root: str, labels: str, skip_unlabeled: bool, max_count: int
) -> _ImageLabels:
    """Choose the door."""
    if not labels:
        return _read_class_folders(image_root)
    extension = os.path.splitext(labels)[1].lower()
    if extension == ".csv":
        return _read_csv(labels, skip_unlabeled, max_count)
    if extension == ".json":
        return _read_coco_json(labels)
    raise UserError(
        f"labels '{labels}' are neither a .csv nor a .json file: give one of these, or nothing "
        "where the image folder has one folder per class"
    )


def _read_csv(path: str, skip_unlabeled: bool, max_count: int) -> _ImageLabels:
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
                labels[file_name] = _split_labels(row["labels"] or "", where, max_count)
                if not labels[file_name]:
                    unlabelled.append((reader.line_num, file_name))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"'{path}' is no CSV file in UTF-8 ({error}): save it as 'CSV UTF-8'"
        ) from error
    if unlabelled and skip_unlabeled:
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
    return _ImageLabels(path, labels, dict(enumerate(names, start=1)))


def _split_labels(cell: str, where: str, max_count: int) -> dict[str, int]:
    """Class names and counts of a cell, 0 for a name without one."""
    counts: dict[str, int] = {}
    for label in filter(None, map(str.strip, cell.split(";"))):
        match = _COUNT.fullmatch(label)
        if not match:
            counts.setdefault(label, 0)
            continue
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


def _read_class_folders(image_root: str) -> _ImageLabels:
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
    return _ImageLabels(image_root, labels, dict(enumerate(class_names, start=1)))


def _images_below(image_root: str, folder: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), image_root)
        for parent, _, names in os.walk(os.path.join(image_root, folder))
        for name in names
        if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
    ]


def _read_coco_json(path: str) -> _ImageLabels:
    content = _load_coco_file(path, ("images", "annotations", "categories"))
    try:
        categories = _coco_categories(content, path)
        counts: dict[int, Counter[str]] = {image["id"]: Counter() for image in content["images"]}
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
        if len(set(file_names)) < len(file_names):
            twice = next(name for name in file_names if file_names.count(name) > 1)
            raise UserError(f"'{path}' lists the image '{twice}' twice: remove one of the two")
        has_sizes = all("height" in image and "width" in image for image in images)
        return _ImageLabels(
            source=path,
            labels={name: counts[im["id"]] for name, im in zip(file_names, images)},
            categories=categories,
            image_ids={name: image["id"] for name, image in zip(file_names, images)},
            sizes={name: (im["height"], im["width"]) for name, im in zip(file_names, images)}
            if has_sizes
            else None,
        )
    except (KeyError, TypeError) as error:
        raise _not_coco(path, f"missing or unknown: {error}") from error


def _load_coco_file(path: str, keys: Sequence[str]) -> dict:
    require_file(path, "the COCO JSON file")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:  # broken JSON or encoding
        raise _not_coco(path, str(error)) from error
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise _not_coco(path, f"it needs the keys {', '.join(keys)}")
    return content


def _coco_categories(content: dict, path: str) -> dict[int, str]:
    categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
    _check_class_names(list(categories.values()), path)
    return categories


def _not_coco(path: str, why: str) -> UserError:
    return UserError(
        f"'{path}' is not in COCO's instance format ({why}): give a JSON with images, annotations "
        "and categories"
    )


def _check_class_names(names: Sequence[str], source: str) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"class '{twice[0]}' is named twice in {source}: give each class one name")


def _categories(
    image_root: str,
    labels: str,
    classes: Sequence[str],
    gt_json: str,
    options: tuple[bool, int],
) -> dict[int, str]:
    """Category id in the dataset -> class name, in the order of the contiguous ids."""
    if gt_json:
        source = gt_json
        known = _read_ground_truth_index(gt_json)[0]
    elif labels.lower().endswith(".json") or not classes:
        source = labels or image_root
        known = _read_labels(image_root, labels, *options).categories
    else:
        known = dict(enumerate(classes, start=1))
    if not classes:
        return known
    _check_class_names(classes, "the list of classes")
    ids = {name: id_ for id_, name in known.items()}
    for name in classes:
        if name not in ids:
            raise UserError(
                f"class '{name}' is not among the categories of '{source}'"
                f"{did_you_mean(name, ids)}: correct the name or add the category"
            )
    return {ids[name]: name for name in classes}


def _read_ground_truth_index(gt_json: str) -> tuple[dict[int, str], dict[str, int]]:
    """Categories and image ids (by file name) of a ground-truth file; no annotation is kept."""
    content = _load_coco_file(gt_json, ("images", "categories"))
    try:
        image_ids = {os.path.normpath(im["file_name"]): im["id"] for im in content["images"]}
        return _coco_categories(content, gt_json), image_ids
    except (KeyError, TypeError) as error:
        raise _not_coco(gt_json, f"missing: {error}") from error


def _with_ground_truth_ids(dicts: list[dict], image_root: str, gt_json: str) -> list[dict]:
    _, image_ids = _read_ground_truth_index(gt_json)
    for dataset_dict in dicts:
        file_name = os.path.relpath(dataset_dict["file_name"], image_root)
        if file_name not in image_ids:
            raise UserError(
                f"image '{file_name}' is not among the images of the ground truth '{gt_json}': add "
                "it there, or leave the ground truth away"
            )
        dataset_dict["image_id"] = image_ids[file_name]
    return dicts


def _dataset_dicts(
    read: _ImageLabels, image_root: str, classes: Sequence[str] | None
) -> list[dict]:
    require_folder(image_root, "the image folder")
    class_names = list(read.categories.values()) if classes is None else list(classes)
    _check_class_names(class_names, "the list of classes")
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
