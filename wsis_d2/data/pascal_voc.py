"""PASCAL VOC 2012 devkits: image-level labels, and true instances as COCO JSON.

A devkit (Everingham et al., IJCV 2010; also the format of Shapes) has the folders ``JPEGImages``,
``Annotations``, ``ImageSets`` and, for its segmentation splits, ``SegmentationClass`` and
``SegmentationObject``. A *split* is a list in ``ImageSets``, named by its path there without
``.txt``: ``Segmentation/train``, ``Main/val``, ``Segmentation/train_aug``.
"""

import hashlib
import logging
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

from ..errors import UserError
from ..files import write_json
from ..layers import UNKNOWN
from ..structures import encode_mask, mask_area, mask_box
from ..structures.masks import checked_size
from .catalog import (
    ground_truth_json,
    register_coco_json,
    replace_dataset,
    require_file,
    require_folder,
)
from .image_files import check_images_exist, read_image_sizes
from .image_labels import labels_and_counts
from .label_maps import read_label_map
from .sem_seg import register_sem_seg

__all__ = [
    "convert_voc_instances_to_coco",
    "load_voc_image_labels",
    "load_voc_label_maps",
    "register_pascal_voc",
    "voc_image_id",
]

logger = logging.getLogger(__name__)

# Splits in ImageSets/Segmentation whose images have masks; train_aug's have none of instances.
_SPLITS_WITH_INSTANCES = ("Segmentation/train", "Segmentation/val", "Segmentation/trainval")

_IMAGE_EXTENSIONS = (".jpg", ".png")


def voc_image_id(name: str) -> int:
    """The integer id of an image, the same in every split of a devkit.

    ``2007_000027`` is 2007000027 and the 2007 devkit's ``000027`` is 27. Any other name gets
    2^40 plus the first 48 bits of its SHA-1: below 2^53, so exact in every JSON reader, and far
    from the others. Two names with one id are found when a split is read.

    Args:
        name: file name of the image without folder and extension.
    """
    if re.fullmatch(r"([1-9]\d{3}_)?\d{6}", name, re.ASCII):
        return int(name.replace("_", ""))
    return 2**40 + int.from_bytes(hashlib.sha1(name.encode()).digest()[:6], "big")


def load_voc_image_labels(
    devkit_root: str, split: str, class_names: Sequence[str], keep_difficult: bool = True
) -> list[dict]:
    """Load images, their class labels and counts, from ``Annotations/*.xml``, as dataset dicts.

    Args:
        devkit_root: folder of the devkit.
        split: path in ``ImageSets`` without ``.txt``.
        class_names: class names in the order of their contiguous ids.
        keep_difficult: whether objects marked as difficult count. Without them, images that show
            no others are left out and counted in the log.

    Returns:
        Dataset dicts (see :mod:`wsis_d2.data.image_labels`) in the order of the list.

    Raises:
        UserError: a folder, list, annotation or image is missing or malformed, an image has no
            object, or a class is unknown.
    """
    class_ids = {name: i for i, name in enumerate(class_names)}
    images = _image_files(devkit_root)
    dicts = []
    names = _read_split(devkit_root, split)
    for name in names:
        if name not in images:
            raise UserError(
                f"image '{name}' of the list '{_split_file(devkit_root, split)}' is absent from "
                f"'{os.path.join(devkit_root, 'JPEGImages')}': add it or remove it from the list"
            )
        xml_file = os.path.join(devkit_root, "Annotations", f"{name}.xml")
        height, width, objects = _read_annotation(xml_file)
        if not objects:
            raise UserError(
                f"image '{name}' has no labels, as there is no object in '{xml_file}': annotate it "
                f"or remove it from the list '{_split_file(devkit_root, split)}'"
            )
        kept = Counter(label for label, difficult in objects if keep_difficult or not difficult)
        if kept:
            dicts.append(
                {
                    "file_name": images[name],
                    "image_id": voc_image_id(name),
                    "height": height,
                    "width": width,
                    **labels_and_counts(kept, class_ids, name, xml_file),
                }
            )
    if len(dicts) < len(names):
        logger.warning(
            "%d of the %d images of %s show difficult objects alone and are left out",
            len(names) - len(dicts),
            len(names),
            _split_file(devkit_root, split),
        )
    return dicts


def convert_voc_instances_to_coco(
    devkit_root: str, split: str, class_names: Sequence[str], output_json: str
) -> None:
    """Write the instances of ``SegmentationObject`` as a COCO JSON with RLE masks.

    An instance is what has one value in ``SegmentationObject``; its class is the most frequent
    class of its pixels in ``SegmentationClass`` (value k: class k - 1). Void pixels (255) belong
    to no instance and are not stored. Category ids are contiguous ids + 1, image ids those of
    :func:`voc_image_id`, and nothing is a crowd. The same devkit gives the same bytes.

    Args:
        devkit_root: folder of the devkit.
        split: path in ``ImageSets`` without ``.txt``.
        class_names: class names in the order of their contiguous ids.
        output_json: file to write, atomically; its folder is made where needed.

    Raises:
        UserError: a file is missing or malformed, or the output cannot be written.
    """
    image_files = _image_files(devkit_root)
    names = _read_split(devkit_root, split)
    images, annotations = [], []
    for name in tqdm(names, f"instances of {split}", leave=False, delay=3):
        objects = read_label_map(os.path.join(devkit_root, "SegmentationObject", f"{name}.png"))
        class_file = os.path.join(devkit_root, "SegmentationClass", f"{name}.png")
        classes = read_label_map(class_file)
        if objects.shape != classes.shape:
            raise UserError(
                f"'{class_file}' and its map in SegmentationObject differ in size "
                f"({classes.shape} and {objects.shape}): replace the wrong one"
            )
        image_id = voc_image_id(name)
        height, width = objects.shape
        images.append(
            {
                "id": image_id,
                "file_name": os.path.basename(image_files.get(name, f"{name}.jpg")),
                "height": height,
                "width": width,
            }
        )
        object_ids = [value for value in np.unique(objects) if value not in (0, UNKNOWN)]
        for object_id in object_ids:
            mask = objects == object_id
            category_id = _majority_class(classes[mask], class_file, len(class_names))
            rle = encode_mask(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": rle,
                    "area": mask_area(rle),
                    "bbox": mask_box(rle),
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": f"instances of the VOC split {split}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)],
    }
    try:
        write_json(output_json, content)
    except UserError as error:
        raise UserError(
            f"cannot write the converted annotations to '{output_json}': make its folder writable, "
            "or link the dataset into a folder that is"
        ) from error


def load_voc_label_maps(devkit_root: str, split: str) -> list[dict]:
    """Load images and the files of their label maps in ``SegmentationClass`` as dataset dicts.

    Args:
        devkit_root: folder of the devkit.
        split: path in ``ImageSets`` without ``.txt``.

    Returns:
        Dicts with ``file_name``, ``sem_seg_file_name``, ``image_id``, ``height`` and ``width``, in
        the order of the list.

    Raises:
        UserError: a folder, list, image or label map is missing or cannot be read.
    """
    images = _image_files(devkit_root)
    names = _read_split(devkit_root, split)
    jpeg = os.path.join(devkit_root, "JPEGImages", "{}.jpg")
    paths = [images.get(name, jpeg.format(name)) for name in names]
    maps = [os.path.join(devkit_root, "SegmentationClass", f"{name}.png") for name in names]
    check_images_exist([*paths, *maps], _split_file(devkit_root, split))
    return [
        {
            "file_name": path,
            "sem_seg_file_name": label_map,
            "image_id": voc_image_id(name),
            "height": height,
            "width": width,
        }
        for name, path, label_map, (height, width) in zip(
            names, paths, maps, read_image_sizes(paths)
        )
    ]


def register_pascal_voc(
    name: str,
    devkit_root: str,
    split: str,
    class_names: Sequence[str],
    keep_difficult: bool = True,
    evaluation_dataset: str = "",
) -> None:
    """Register a split of a devkit; nothing is read from disk before it is used.

    ``name`` has image-level labels. For the segmentation splits train, val and trainval there are
    also two stock datasets with the true masks, ``<name>_instances`` and, of label maps,
    ``<name>_sem_seg``. The COCO JSON of the former is converted once to
    ``<devkit>/coco_annotations/instances_<split>.json``, when
    :func:`wsis_d2.data.ground_truth_json` or the loader first asks for it, and again when the
    split's list is newer. Where the devkit is read-only it lies in Detectron2's cache folder
    (``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``).

    Args:
        name: name of the dataset.
        devkit_root: folder of the devkit.
        split: path in ``ImageSets`` without ``.txt``; a bare name is one of ``Segmentation``.
        class_names: class names in the order of their contiguous ids.
        keep_difficult: see :func:`load_voc_image_labels`.
        evaluation_dataset: for a split without true instances, a registered one of the same devkit
            that has them and whose images are among these; what is made for ``name`` is evaluated
            on these images. A devkit without its list or its masks has no ground truth for
            ``name``, which is no error.
    """
    split = split if "/" in split else f"Segmentation/{split}"
    class_names = list(class_names)
    image_root = os.path.join(devkit_root, "JPEGImages")
    classes = {
        "thing_classes": class_names,
        "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(class_names))},
    }
    has_instances = split in _SPLITS_WITH_INSTANCES
    gt_json = _instances_json(devkit_root, split) if has_instances else ""

    def make_gt_json() -> str:
        if _is_stale(gt_json, _split_file(devkit_root, split)):
            convert_voc_instances_to_coco(devkit_root, split, class_names, gt_json)
        return gt_json

    def find_gt_json() -> str:
        evaluated_split = MetadataCatalog.get(evaluation_dataset).split
        needed = (_split_file(devkit_root, evaluated_split), *_mask_folders(devkit_root))
        return ground_truth_json(evaluation_dataset) if all(map(os.path.exists, needed)) else ""

    make_ground_truth = make_gt_json if has_instances else None
    replace_dataset(
        name,
        lambda: load_voc_image_labels(devkit_root, split, class_names, keep_difficult),
        find_gt_json if evaluation_dataset else make_ground_truth,
        **classes,
        evaluation_dataset=evaluation_dataset,
        image_root=image_root,
        gt_json=gt_json,
        supervision="image_labels",
        devkit_root=devkit_root,
        split=split,
    )
    if has_instances:
        register_coco_json(f"{name}_instances", gt_json, image_root, make_gt_json, **classes)
        register_sem_seg(
            f"{name}_sem_seg",
            lambda: load_voc_label_maps(devkit_root, split),
            class_names,
            image_root=image_root,
        )


def _mask_folders(devkit_root: str) -> list[str]:
    return [os.path.join(devkit_root, f"Segmentation{kind}") for kind in ("Class", "Object")]


def _instances_json(devkit_root: str, split: str) -> str:
    folder = os.path.join(devkit_root, "coco_annotations")
    path = os.path.join(folder, f"instances_{os.path.basename(split)}.json")
    parent = folder if os.path.isdir(folder) else devkit_root
    if os.path.isfile(path) or not os.path.isdir(parent) or os.access(parent, os.W_OK):
        return path
    digest = hashlib.sha256(os.path.abspath(devkit_root).encode()).hexdigest()[:16]
    folder = os.path.join(get_cache_dir(), "wsis_d2", "coco_annotations", digest)
    return os.path.join(folder, os.path.basename(path))


def _is_stale(path: str, source: str) -> bool:
    require_file(source, "the list of images")
    return not os.path.isfile(path) or os.path.getmtime(path) < os.path.getmtime(source)


def _split_file(devkit_root: str, split: str) -> str:
    return os.path.join(devkit_root, "ImageSets", f"{split}.txt")


def _read_split(devkit_root: str, split: str) -> list[str]:
    """Names of a list's images.

    A line is a name (``2007_000027``, and maybe more after it) or, in the common train_aug lists,
    the path of the image and of its label map.
    """
    require_folder(devkit_root, "the VOC devkit")
    path = _split_file(devkit_root, split)
    require_file(path, "the list of images")
    try:
        with open(path, encoding="utf-8") as file:
            names = [_image_name(line.split()[0]) for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{path}' is no text in UTF-8 ({error}): write one name per line"
        ) from error
    if not names:
        raise UserError(f"'{path}' lists no image: write one name per line")
    by_id: dict[int, str] = {}
    for name in names:
        other = by_id.setdefault(voc_image_id(name), name)
        if other is not name:
            raise UserError(
                f"'{path}' lists image '{name}' twice: remove one line"
                if other == name
                else f"images '{other}' and '{name}' in '{path}' get the same id: rename one"
            )
    return names


def _image_name(entry: str) -> str:
    stem, extension = os.path.splitext(os.path.basename(entry))
    return stem if extension.lower() in _IMAGE_EXTENSIONS else os.path.basename(entry)


def _image_files(devkit_root: str) -> dict[str, str]:
    """Path of each image in ``JPEGImages`` by its name; a ``.jpg`` comes before a ``.png``."""
    require_folder(devkit_root, "the VOC devkit")
    image_root = os.path.join(devkit_root, "JPEGImages")
    require_folder(image_root, "the image folder of the VOC devkit")
    files = {}
    for file_name in sorted(os.listdir(image_root)):
        stem, extension = os.path.splitext(file_name)
        if extension.lower() in _IMAGE_EXTENSIONS:
            files.setdefault(stem, os.path.join(image_root, file_name))
    return files


class _PlainTreeBuilder(ET.TreeBuilder):
    """Refuses document types: no VOC file has one, and in strangers' files it can blow up the
    parser."""

    def doctype(self, *_) -> None:
        raise ValueError("it declares a document type, which is refused")


def _read_annotation(path: str) -> tuple[int, int, list[tuple[str, bool]]]:
    """Height, width, and class name and difficulty of each object of an annotation file."""
    require_file(path, "the annotation file")
    try:
        with open(path, "rb") as file:
            root = ET.parse(file, ET.XMLParser(target=_PlainTreeBuilder())).getroot()
        size = [int(root.findtext(f"size/{side}", "")) for side in ("height", "width")]
        height, width = checked_size(size)
        objects = [
            (
                element.findtext("name", "").strip(),
                element.findtext("difficult", "0").strip() == "1",
            )
            for element in root.findall("object")
        ]
    # Of encodings: one that is unknown, or that the parser cannot read.
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(
            f"'{path}' is not an annotation in VOC's format ({error}): replace the file"
        ) from error
    return height, width, objects


def _majority_class(pixels: np.ndarray, path: str, num_classes: int) -> int:
    """The most frequent class (1 .. C) among an object's ``(N,)`` class pixels."""
    counts = np.bincount(pixels, minlength=UNKNOWN + 1)
    counts[[0, UNKNOWN]] = 0
    category_id = int(counts.argmax())
    if counts[category_id] == 0 or category_id > num_classes:
        found = f"the label {category_id}" if category_id > num_classes else "no class"
        raise UserError(
            f"'{path}' has {found} where SegmentationObject has an object, but the classes are 1 "
            f"to {num_classes}: check the map and the list of classes"
        )
    return category_id
