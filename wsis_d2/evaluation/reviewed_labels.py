"""A review applied to the file of pseudo labels that it is of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..data import read_review
from ..errors import UserError
from ..files import check_writable, file_sha256
from .coco_format import MAX_SCORE, read_coco_json, write_coco_json

#: What :func:`apply_review` counts, in the order of its summary.
OUTCOMES = ("kept", "reclassified", "rejected", "below the least score")


def apply_review(
    labels_file: str | os.PathLike, review_file: str | os.PathLike, output_file: str | os.PathLike
) -> dict[str, int]:
    """Write the pseudo labels that a review leaves.

    Everything else stays: ids, images without a mask left, crowd regions. The ``info`` block says
    by which review.

    Args:
        labels_file: the reviewed COCO dataset file.
        review_file: see :mod:`wsis_d2.data.review`.
        output_file: the COCO dataset file to write, another one.

    Returns:
        Number of masks by :data:`OUTCOMES`.

    Raises:
        UserError: a file is missing or malformed, the review is of other labels, or the output
            cannot be written.
    """
    review = read_review(review_file)
    review.check_file(labels_file)
    if os.path.exists(output_file) and os.path.samefile(labels_file, output_file):
        raise UserError(f"'{output_file}' is the reviewed file: name another output")
    check_writable(output_file)
    content = read_coco_json(labels_file)
    masks = [a for a in content["annotations"] if not a.get("iscrowd", 0)]
    ids = [_mask_id(a, labels_file) for a in masks]
    if len(set(ids)) < len(ids):
        raise UserError(f"two annotations of '{labels_file}' have one id: give each its own")
    review.check_ids(ids, {category["id"] for category in content["categories"]})
    counts = Counter(dict.fromkeys(OUTCOMES, 0))
    kept = []
    for annotation in content["annotations"]:
        if annotation.get("iscrowd", 0):
            kept.append(annotation)
            continue
        score = mask_score(annotation, labels_file)
        category_id = review.category_of(annotation["id"], annotation["category_id"], score)
        if category_id is not None:
            kept.append({**annotation, "category_id": category_id})
            reclassified = annotation["id"] in review.classes
            counts["reclassified" if reclassified else "kept"] += 1
        elif annotation["id"] in review.rejected:
            counts["rejected"] += 1
        else:
            counts["below the least score"] += 1
    info = content.get("info")
    info = {
        **(info if isinstance(info, dict) else {}),
        "review": {
            "review_sha256": file_sha256(os.fspath(review_file)),
            "labels_sha256": review.labels_sha256,
            **counts,
        },
    }
    write_coco_json(output_file, info, content["images"], kept, content["categories"])
    return dict(counts)


def _mask_id(annotation: Mapping[str, Any], path: str | os.PathLike) -> Any:
    if not isinstance(annotation.get("id"), int | str):
        raise UserError(
            f"an annotation of image {annotation['image_id']!r} in '{path}' has no id: make the "
            "labels again"
        )
    return annotation["id"]


def mask_score(annotation: Mapping[str, Any], path: str | os.PathLike) -> float:
    """The score of a pseudo mask, 1 where it has none.

    Raises:
        UserError: it is no finite number.
    """
    score = annotation.get("score", 1.0)
    if not isinstance(score, int | float) or not abs(score) <= MAX_SCORE:
        raise UserError(
            f"the score of annotation {annotation.get('id')} in '{path}' is not a number"
        )
    return float(score)
