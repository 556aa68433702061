"""Registration of the user's own images, labels and pseudo labels as Detectron2 datasets."""

import os
from collections.abc import Iterator, Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..errors import UserError
from .catalog import did_you_mean, register_coco_json, replace_dataset, require_dataset
from .label_readers import (
    LabelOptions,
    check_class_names,
    coco_categories,
    coco_images,
    load_coco_file,
    not_coco,
    read_labels,
    to_dataset_dicts,
)
from .review import Review, read_review
from .sem_seg import register_label_maps, register_painted_instances

__all__ = ["register_image_level_dataset", "register_own_datasets", "register_pseudo_labels"]


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
        labels: a ``.csv``, a ``.jsonl``, a ``.json`` of COCO or of Label Studio; empty:
            ``image_root`` has one folder per class.
        classes: class names in the order of their contiguous ids; empty: the categories of
            ``gt_json``, else those of the labels.
        gt_json: COCO JSON with true masks, which only evaluators read. Image ids and category ids
            of the dataset are then those of this file.
        skip_unlabeled: leave images of a label file without labels out instead of raising.
        max_count: the largest exact count in a CSV, see :func:`load_image_labels_csv`.

    Raises:
        UserError: a file is missing or malformed (see :mod:`wsis_d2.data.label_readers`).
    """
    options = LabelOptions(skip_unlabeled, max_count)
    categories = _categories(image_root, labels, classes, gt_json, options)
    class_names = list(categories.values())

    def load() -> list[dict]:
        found = read_labels(image_root, labels, options)
        dicts = to_dataset_dicts(found, image_root, class_names)
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
            pseudo.NAME,
            pseudo.JSON,
            pseudo.IMAGE_ROOT,
            pseudo.SOURCE,
            pseudo.SAMPLE_CANDIDATES,
            pseudo.REVIEW,
        )


def register_pseudo_labels(
    name: str,
    json_file: str,
    image_root: str = "",
    source: str = "",
    keep_candidates: bool = False,
    review: str = "",
) -> None:
    """Register a COCO JSON of pseudo labels as a stock dataset.

    Args:
        name: of the dataset.
        json_file: the JSON.
        image_root: folder of its images; empty: that of ``source``.
        source: name of the dataset that was labelled.
        keep_candidates: whether :class:`InstanceMapper` is to draw each object's mask from its
            ``candidates``.
        review: a review of the JSON (:mod:`wsis_d2.data.review`), which is heeded; empty: none.

    Raises:
        UserError: ``source`` is needed and not registered; later, when the dataset is used, the
            review is none or is of other labels.
    """
    if not image_root and source:
        require_dataset(source, "DATASETS.PSEUDO.SOURCE (or set DATASETS.PSEUDO.IMAGE_ROOT)")
        image_root = MetadataCatalog.get(source).image_root
    extra_keys = ("candidates",) if keep_candidates else ()
    if not review:
        register_coco_json(name, json_file, image_root, extra_keys=extra_keys, gt_json="")
        return

    def heed_review(dicts: list[dict]) -> list[dict]:
        found = read_review(review)
        found.check_file(json_file)
        category_ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        return _reviewed_dicts(dicts, found, category_ids)

    register_coco_json(
        name,
        json_file,
        image_root,
        extra_keys=("id", *extra_keys),
        change_dicts=heed_review,
        gt_json="",
    )


def _reviewed_dicts(
    dicts: list[dict], review: Review, category_ids: Mapping[int, int]
) -> list[dict]:
    """Dataset dicts as the file that :func:`wsis_d2.evaluation.apply_review` writes has them.

    Args:
        dicts: of the reviewed file, whose annotations have their ``id``.
        review: the review.
        category_ids: category id in the file -> contiguous id.
    """
    id_of = {contiguous: category_id for category_id, contiguous in category_ids.items()}
    ids = [a["id"] for d in dicts for a in d["annotations"] if not a.get("iscrowd")]
    review.check_ids(ids, category_ids)
    return [
        {**d, "annotations": list(_reviewed_annotations(d, review, id_of, category_ids))}
        for d in dicts
    ]


def _reviewed_annotations(
    dataset_dict: dict, review: Review, id_of: Mapping[int, int], category_ids: Mapping[int, int]
) -> Iterator[dict]:
    for annotation in dataset_dict["annotations"]:
        rest = {key: value for key, value in annotation.items() if key != "id"}
        if annotation.get("iscrowd"):
            yield rest
            continue
        category_id = id_of[annotation["category_id"]]
        score = annotation.get("score", 1.0)
        category_id = review.category_of(annotation["id"], category_id, score)
        if category_id is not None:
            yield {**rest, "category_id": category_ids[category_id]}


def _categories(
    image_root: str,
    labels: str,
    classes: Sequence[str],
    gt_json: str,
    options: LabelOptions,
) -> dict[int, str]:
    """Category id in the dataset -> class name, in the order of the contiguous ids."""
    if gt_json:
        source = gt_json
        known = _read_ground_truth_index(gt_json)[0]
    elif labels.lower().endswith(".json") or not classes:
        source = labels or image_root
        read = read_labels(image_root, labels, options)
        # Only COCO's categories have ids of their own, which predictions must use.
        own_ids = read.image_ids is not None or not classes
        known = read.categories if own_ids else dict(enumerate(classes, start=1))
    else:
        known = dict(enumerate(classes, start=1))
    if not classes:
        return known
    check_class_names(classes, "the list of classes")
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
    content = load_coco_file(gt_json, ("images", "categories"))
    try:
        return coco_categories(content, gt_json), dict(coco_images(content, gt_json))
    except (KeyError, TypeError, ValueError) as error:
        raise not_coco(gt_json, f"missing: {error}") from error


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
