"""Registration in Detectron2's catalogs: idempotent, lazy, and with ground truth on demand."""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..errors import UserError
from ..structures import check_segmentation
from ..structures.masks import checked_size
from .image_files import check_images_exist

# What pycocotools and Detectron2 raise for JSON that is not in COCO's format.
_DAMAGES = (
    AssertionError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)

#: What pseudo labels have beside COCO's own keys.
EXTRA_KEYS = ("score",)

__all__ = [
    "dataset_classes",
    "dataset_dicts",
    "evaluation_dataset",
    "ground_truth_json",
    "label_dataset_name",
    "register_coco_json",
    "replace_dataset",
    "require_dataset",
    "training_classes",
]

# Datasets whose ground-truth JSON is converted when it is first asked for.
_GROUND_TRUTH_MAKERS: dict[str, Callable[[], str]] = {}


def replace_dataset(
    name: str,
    load: Callable[[], list[dict]],
    make_ground_truth: Callable[[], str] | None = None,
    **metadata,
) -> None:
    """Register a dataset, or register it anew.

    Detectron2's catalogs refuse a name that they know. Tools and notebooks set themselves up more
    than once in a process, so here the last registration counts. Metadata that did not change
    stays the same object.

    Args:
        name: name in DATASETS.TRAIN and DATASETS.TEST.
        load: gives the dataset dicts; called when the dataset is used, not now.
        make_ground_truth: gives the path of the COCO JSON with true instances, writing it first
            where it must; called by :func:`ground_truth_json`.
        **metadata: set on the dataset's :class:`detectron2.data.Metadata`.
    """
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, load)
    known = MetadataCatalog.get(name)
    if any(known.get(key, value) != value for key, value in metadata.items()):
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**metadata)
    _GROUND_TRUTH_MAKERS.pop(name, None)
    if make_ground_truth is not None:
        _GROUND_TRUTH_MAKERS[name] = make_ground_truth


def register_coco_json(
    name: str,
    json_file: str,
    image_root: str,
    make_json: Callable[[], str] | None = None,
    extra_keys: Sequence[str] = (),
    change_dicts: Callable[[list[dict]], list[dict]] | None = None,
    **metadata,
) -> None:
    """Register a COCO instance JSON as a stock, fully supervised dataset.

    The same as :func:`detectron2.data.datasets.register_coco_instances`, but it may be repeated
    (see :func:`replace_dataset`), a missing file is a :class:`UserError`, and the JSON may be made
    on first use.

    Args:
        name: name of the dataset.
        json_file: path of the JSON.
        image_root: folder that the JSON's ``file_name`` are relative to.
        make_json: writes the JSON where it is missing or stale and returns its path.
        extra_keys: keys that every annotation of the JSON must have, beside COCO's own, and that
            are kept in the dataset dicts.
        change_dicts: gives the dataset's dicts from those of the JSON.
        **metadata: further metadata.
    """

    def load() -> list[dict]:
        if make_json is not None:
            make_json()
        require_file(json_file, f"the annotation file of dataset '{name}'")
        try:
            dicts = load_coco_json(json_file, image_root, name, [*EXTRA_KEYS, *extra_keys])
            _check_dicts(dicts)
        except _DAMAGES as error:
            raise UserError(
                f"'{json_file}', the annotation file of dataset '{name}', is damaged or not in "
                f"COCO's instance format ({error}): make it again"
            ) from error
        for key in extra_keys:
            if not all(key in a for d in dicts for a in d["annotations"] if not a.get("iscrowd")):
                raise UserError(
                    f"'{json_file}', the annotation file of dataset '{name}', has annotations "
                    f"without '{key}': make it again with them, or set the option that asks for "
                    "them to False"
                )
        check_images_exist((d["file_name"] for d in dicts), json_file)
        return dicts if change_dicts is None else change_dicts(dicts)

    replace_dataset(
        name,
        load,
        make_json,
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        **metadata,
    )


def _check_dicts(dataset_dicts: Sequence[dict]) -> None:
    """Raise one of :data:`_DAMAGES` where training would stumble over what a JSON says."""
    for key in ("bbox", "segmentation"):
        if len({key in a for d in dataset_dicts for a in d["annotations"]}) > 1:
            raise ValueError(f"some of its annotations have no {key}")
    for dataset_dict in dataset_dicts:
        size = checked_size((dataset_dict["height"], dataset_dict["width"]))
        for annotation in dataset_dict["annotations"]:
            _check_annotation(annotation, size)


def _check_annotation(annotation: dict, size: tuple[int, int]) -> None:
    box = annotation.get("bbox", (0, 0, 0, 0))
    if len(box) != 4 or not all(map(math.isfinite, (*box, annotation.get("score", 1)))):
        raise ValueError("a box or score is not finite")
    candidates = annotation.get("candidates") or []
    weights = [candidate["weight"] for candidate in candidates]
    if candidates and not (all(map(math.isfinite, weights)) and min(weights) >= 0 < sum(weights)):
        raise ValueError("the weights of an object's candidates are not finite or all 0")
    masks = [candidate["segmentation"] for candidate in candidates]
    if not all(isinstance(mask["counts"], str) for mask in masks):
        raise ValueError("a candidate is no compressed RLE")
    if "segmentation" in annotation:
        masks.append(annotation["segmentation"])
    for mask in masks:
        check_segmentation(mask, size)
        if isinstance(mask, dict) and tuple(mask["size"]) != size:
            raise ValueError(f"a mask has not the size {size} of its image")


def require_dataset(name: str, key: str = "DATASETS.TRAIN/TEST") -> None:
    """Check that a dataset of this name is registered.

    Args:
        name: of the dataset.
        key: what names it, for the message.

    Raises:
        UserError: it is not.
    """
    if name not in DatasetCatalog:
        raise UserError(
            f"dataset '{name}' is not registered{did_you_mean(name, DatasetCatalog.list())}: check "
            f"{key}, or name its files in DATASETS.OWN_TRAIN, DATASETS.OWN_TEST or DATASETS.PSEUDO "
            "(datasets/README.md has the names that are known)"
        )


def dataset_dicts(name: str) -> list[dict]:
    """The registered dataset's dicts; see :func:`require_dataset`."""
    require_dataset(name)
    return DatasetCatalog.get(name)


def dataset_classes(name: str) -> list[str]:
    """Names of a registered dataset's classes, [] where it has none.

    A dataset of label maps has the background too, as its first class.

    Raises:
        UserError: the dataset is not registered.
    """
    if not _known_classes(name):
        dataset_dicts(name)  # some datasets know their classes only once they are loaded
    return _known_classes(name)


def _known_classes(name: str) -> list[str]:
    metadata = MetadataCatalog.get(name)
    return list(metadata.get("thing_classes") or metadata.get("stuff_classes") or [])


def training_classes(cfg: CfgNode) -> list[str]:
    """:func:`dataset_classes` of the first dataset in ``DATASETS.TRAIN``; [] without one."""
    return dataset_classes(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else []


def label_dataset_name(cfg: CfgNode) -> str:
    """The dataset to label: ``PSEUDO_LABELS.DATASET`` or the only one in ``DATASETS.TRAIN``.

    Raises:
        UserError: several are named.
    """
    if cfg.PSEUDO_LABELS.DATASET:
        return cfg.PSEUDO_LABELS.DATASET
    if len(cfg.DATASETS.TRAIN) != 1:
        raise UserError(
            f"DATASETS.TRAIN names {len(cfg.DATASETS.TRAIN)} datasets: say which one to label in "
            "PSEUDO_LABELS.DATASET"
        )
    return cfg.DATASETS.TRAIN[0]


def evaluation_dataset(dataset_name: str) -> str:
    """The dataset whose ground truth a dataset has.

    Args:
        dataset_name: a registered dataset.

    Returns:
        The key ``evaluation_dataset`` of its metadata, a dataset of those of its images that have
        true masks; its own name where it has no such key.
    """
    return MetadataCatalog.get(dataset_name).get("evaluation_dataset") or dataset_name


def ground_truth_json(dataset_name: str) -> str:
    """The COCO JSON that holds a dataset's true instances, for evaluation.

    It may list a part of the dataset's images alone, see :func:`evaluation_dataset`.

    Args:
        dataset_name: a registered dataset: image-level (key ``gt_json`` of its metadata) or stock
            (key ``json_file``).

    Returns:
        Path of the file, converted now where the dataset comes in another format (PASCAL VOC);
        ``""`` for a dataset without true instances.

    Raises:
        UserError: the dataset is not registered, or its file is missing.
    """
    require_dataset(dataset_name)
    if dataset_name in _GROUND_TRUTH_MAKERS:
        return _GROUND_TRUTH_MAKERS[dataset_name]()
    metadata = MetadataCatalog.get(dataset_name)
    path = metadata.get("gt_json", metadata.get("json_file", ""))
    if path:
        require_file(path, f"the ground truth of dataset '{dataset_name}'")
    return path


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the option closest to a misspelt name, or nothing."""
    by_lower_case = {option.lower(): option for option in options}
    closest = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" (did you mean '{by_lower_case[closest[0]]}'?)" if closest else ""


def require_file(path: str, what: str) -> None:
    """Raise a :class:`UserError` unless ``path`` is a file; ``what`` names it in the sentence."""
    if not os.path.isfile(path):
        raise UserError(
            f"{what}, '{path}', is missing: check the path, or see datasets/README.md for the "
            "files that each dataset must have"
        )


def require_folder(path: str, what: str) -> None:
    """Raise a :class:`UserError` unless ``path`` is a folder; ``what`` names it in the sentence."""
    if not os.path.isdir(path):
        raise UserError(
            f"{what}, '{path}', is missing or no folder: check the path, or see datasets/README.md "
            "for the folders that each dataset must have"
        )
