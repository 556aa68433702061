"""Image-level labels in dataset dicts: taken from any dataset, checked for training."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UserError
from .catalog import did_you_mean

__all__ = ["check_image_level_dataset", "make_image_level"]


def image_keys(dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset dict says of its image: no labels, no masks, no boxes."""
    keys = ("file_name", "image_id", "height", "width")
    return {key: dataset_dict[key] for key in keys if key in dataset_dict}


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
        kept = image_keys(dataset_dict)
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
