"""The dataset of each training stage as one call with plain arguments, for LazyConfig files.

They take the place of :func:`detectron2.data.get_detection_dataset_dicts` there.
"""

import os
from collections.abc import Iterable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from ..errors import UserError
from ..files import label_file
from .catalog import dataset_dicts
from .image_labels import check_image_level_dataset, image_keys, make_image_level
from .own_datasets import register_pseudo_labels

__all__ = ["add_seed_files", "get_image_label_dicts", "get_pseudo_label_dicts", "get_seed_dicts"]


def get_image_label_dicts(names: str | Sequence[str], max_count: int | None = None) -> list[dict]:
    """Images and their class labels, of any registered datasets; masks and boxes stay behind.

    Args:
        names: one dataset or several of the same classes.
        max_count: keep the lower counts of the labels too, up to this number and one for "more".

    Raises:
        UserError: a dataset is not registered, or an image has no label or lacks a count.
    """
    dicts = []
    for name in _as_list(names):
        image_level = make_image_level(dataset_dicts(name), max_count)
        classes = MetadataCatalog.get(name).thing_classes
        check_image_level_dataset(image_level, classes, need_counts=max_count is not None)
        dicts += image_level
    return dicts


def get_seed_dicts(names: str | Sequence[str], folder: str) -> list[dict]:
    """Images and the files of their seeds; see :func:`wsis_d2.data.add_seed_files`.

    Args:
        names: one dataset or several.
        folder: of the seeds.

    Raises:
        UserError: a dataset is not registered, or an image has no seeds.
    """
    return [
        dataset_dict
        for name in _as_list(names)
        for dataset_dict in add_seed_files(
            dataset_dicts(name), folder, MetadataCatalog.get(name).get("image_root", "")
        )
    ]


def get_pseudo_label_dicts(
    names: str,
    json_file: str,
    source: str = "",
    image_root: str = "",
    keep_candidates: bool = False,
    review: str = "",
) -> list[dict]:
    """Images with the instances of a pseudo label file; images without any are left out.

    Args:
        names: name under which the file is registered.
        json_file: COCO JSON that ``tools/make_pseudo_labels.py`` wrote.
        source: dataset that was labelled.
        image_root: folder of the images; empty: that of ``source``.
        keep_candidates: whether the mapper is to draw each object's mask from its ``candidates``.
        review: a review of the file, which is heeded (:mod:`wsis_d2.data.review`); empty: none.

    Raises:
        UserError: a file is missing, is damaged or has no instance.
    """
    register_pseudo_labels(names, json_file, image_root, source, keep_candidates, review)
    if not any(d["annotations"] for d in DatasetCatalog.get(names)):
        raise UserError(
            f"there is no instance in '{json_file}' to train on: make the pseudo labels with a "
            "lower PSEUDO_LABELS.PEAK_THRESHOLD or MIN_SCORE"
        )
    return get_detection_dataset_dicts(names)


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def add_seed_files(dicts: Iterable[dict], folder: str, image_root: str) -> list[dict]:
    """Reduce dataset dicts to images and their seeds.

    Args:
        dicts: any of Detectron2's dataset dicts.
        folder: of the seeds, one PNG per image; see :func:`wsis_d2.files.label_file`.
        image_root: folder of the dataset's images.

    Returns:
        Dicts with ``file_name``, ``image_id``, ``height``, ``width`` (where known) and
        ``sem_seg_file_name``.

    Raises:
        UserError: an image has no seeds.
    """
    with_seeds, missing = [], []
    for dataset_dict in dicts:
        kept = image_keys(dataset_dict)
        kept["sem_seg_file_name"] = label_file(folder, kept["file_name"], image_root, ".png")
        if not os.path.isfile(kept["sem_seg_file_name"]):
            missing.append(kept["sem_seg_file_name"])
        with_seeds.append(kept)
    if missing:
        raise UserError(
            f"the seeds '{missing[0]}' are missing ({len(missing)} of {len(with_seeds)} images "
            "have none): make them with tools/make_seeds.py, or correct SEEDS.PATH"
        )
    return with_seeds
