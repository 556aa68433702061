"""Semantic segmentation with stock models: datasets of label maps.

A label map is a PNG as in VOC's ``SegmentationClass``: 0 background, c + 1 for the contiguous class
c, 255 ignored. The datasets are Detectron2's standard ones (``sem_seg_file_name`` in the dicts,
``stuff_classes`` and ``ignore_label`` in the metadata), so its ``SemSegEvaluator`` takes them as
they are. Its ``DatasetMapper`` does not: see :class:`wsis_d2.data.SemSegMapper`.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

from ..errors import UserError
from ..files import label_file
from .catalog import dataset_classes, replace_dataset, require_dataset
from .label_maps import UNKNOWN, semantic_truth, write_label_map

__all__ = [
    "BACKGROUND_CLASS",
    "register_label_maps",
    "register_painted_instances",
    "register_sem_seg",
]

logger = logging.getLogger(__name__)

BACKGROUND_CLASS = "background"
"""Name of label 0."""


def register_sem_seg(
    name: str, load: Callable[[], list[dict]], class_names: Sequence[str], **metadata
) -> None:
    """Register a dataset of label maps, or register it anew; nothing is read now.

    Args:
        name: name of the dataset.
        load: gives dicts with ``file_name``, ``sem_seg_file_name``, ``image_id``, ``height`` and
            ``width``.
        class_names: names of the labels 1, 2, ...
        **metadata: further metadata.
    """
    replace_dataset(
        name,
        load,
        stuff_classes=[BACKGROUND_CLASS, *class_names],
        ignore_label=UNKNOWN,
        evaluator_type="sem_seg",
        **metadata,
    )


def register_label_maps(name: str, label_root: str, source: str) -> None:
    """Register a folder of label maps of another dataset's images: semantic pseudo labels.

    Args:
        name: name of the dataset.
        label_root: folder of the PNGs, named like the images (:func:`wsis_d2.files.label_file`).
        source: the registered dataset whose images and classes it has; none of its labels are used.

    Raises:
        UserError: ``source`` is not registered; when the dataset is used, a label map is missing.
    """
    class_names, image_root = _source_metadata(source)

    def load() -> list[dict]:
        dicts = _with_label_maps(DatasetCatalog.get(source), label_root, image_root)
        missing = [d for d in dicts if not os.path.isfile(d["sem_seg_file_name"])]
        if missing:
            raise UserError(
                f"image '{missing[0]['file_name']}' and {len(missing) - 1} more of '{source}' have "
                f"no label map in '{label_root}' (first: '{missing[0]['sem_seg_file_name']}'): "
                "make the semantic pseudo labels first, or correct DATASETS.PSEUDO.SEM_SEG_ROOT"
            )
        return dicts

    register_sem_seg(name, load, class_names, image_root=image_root)


def register_painted_instances(name: str, source: str) -> None:
    """Register the true instances of an image-level dataset as a dataset of label maps.

    They are painted by :func:`wsis_d2.data.label_maps.semantic_truth` when the dataset is first
    used, into Detectron2's cache folder (``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``),
    because the folder of the ground truth may be read-only.

    Args:
        name: name of the dataset.
        source: a registered image-level dataset with ``gt_json``. Images without any class label
            are not among its images, and so not here.

    Raises:
        UserError: ``source`` is not registered; when the dataset is used, its ground truth is
            missing or damaged.
    """
    class_names, image_root = _source_metadata(source)

    def load() -> list[dict]:
        label_root = _cache_folder(MetadataCatalog.get(source).gt_json, class_names)
        dicts = _with_label_maps(DatasetCatalog.get(source), label_root, image_root)
        missing = [d for d in dicts if not os.path.isfile(d["sem_seg_file_name"])]
        if missing:
            truth = semantic_truth(source)
            logger.info(f"Painting the true instances of '{source}' to '{label_root}'")
            for dataset_dict in tqdm(missing, "label maps", leave=False, delay=3):
                write_label_map(dataset_dict["sem_seg_file_name"], truth(dataset_dict))
        return dicts

    register_sem_seg(name, load, class_names, image_root=image_root)


def _source_metadata(source: str) -> tuple[list[str], str]:
    """Class names and image root of a dataset."""
    require_dataset(source, "DATASETS.PSEUDO.SOURCE")
    return dataset_classes(source), MetadataCatalog.get(source).get("image_root", "")


def _with_label_maps(dicts: Sequence[dict], label_root: str, image_root: str) -> list[dict]:
    """The images of a dataset, without its labels, and the paths of their label maps."""
    return [
        {
            **{key: d[key] for key in ("file_name", "image_id", "height", "width")},
            "sem_seg_file_name": label_file(label_root, d["file_name"], image_root, ".png"),
        }
        for d in dicts
    ]


def _cache_folder(gt_json: str, class_names: Sequence[str]) -> str:
    """Folder of the painted instances: another one for another state of the file or classes."""
    status = os.stat(gt_json)
    state = (os.path.abspath(gt_json), status.st_size, status.st_mtime_ns, *class_names)
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    stem = os.path.splitext(os.path.basename(gt_json))[0]
    return os.path.join(get_cache_dir(), "wsis_d2", "label_maps", f"{stem}-{digest}")
