"""The dataset of each training stage as one call with plain arguments, for LazyConfig files.

They take the place of :func:`detectron2.data.get_detection_dataset_dicts` there.
"""

from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from wsis_d2.errors import UserError

from .catalog import did_you_mean
from .image_labels import check_image_level_dataset, make_image_level, register_pseudo_labels
from .seed_mapper import add_seed_files

__all__ = ["get_image_label_dicts", "get_pseudo_label_dicts", "get_seed_dicts"]


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
        image_level = make_image_level(_load(name), max_count)
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
            _load(name), folder, MetadataCatalog.get(name).get("image_root", "")
        )
    ]


def get_pseudo_label_dicts(
    names: str,
    json_file: str,
    source: str = "",
    image_root: str = "",
    keep_candidates: bool = False,
) -> list[dict]:
    """Images with the instances of a pseudo label file; images without any are left out.

    Args:
        names: name under which the file is registered.
        json_file: COCO JSON that ``tools/make_pseudo_labels.py`` wrote.
        source: dataset that was labelled.
        image_root: folder of the images; empty: that of ``source``.
        keep_candidates: whether the mapper is to draw each object's mask from its ``candidates``.

    Raises:
        UserError: a file is missing, is damaged or has no instance.
    """
    register_pseudo_labels(names, json_file, image_root, source, keep_candidates)
    if not any(d["annotations"] for d in DatasetCatalog.get(names)):
        raise UserError(
            f"there is no instance in '{json_file}' to train on: make the pseudo labels with a "
            "lower PSEUDO_LABELS.PEAK_THRESHOLD or MIN_SCORE"
        )
    return get_detection_dataset_dicts(names)


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _load(name: str) -> list[dict]:
    if name not in DatasetCatalog:
        raise UserError(
            f"dataset '{name}' is not registered{did_you_mean(name, DatasetCatalog.list())}: "
            "correct its name, or register it first"
        )
    return DatasetCatalog.get(name)
