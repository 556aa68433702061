"""A person's review of pseudo labels: which masks stay, which go, which are of another class.

The report's page offers a review as a download (:mod:`wsis_d2.report.review_section`). It is JSON::

    {"review": 1,                                 version of the format
     "labels_sha256": "9f86d0...",                of the reviewed file of pseudo labels
     "min_scores": [{"category_id": 3, "score": 0.45}],
     "accepted": [17],                            ids of annotations
     "rejected": [18],
     "reclassified": [{"id": 19, "category_id": 5}]}

Categories without a least score, and annotations that no list names, may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..files import file_sha256, load_json

__all__ = ["REVIEW_VERSION", "Review", "read_review"]

REVIEW_VERSION = 1

_KEYS = {"review", "labels_sha256", "min_scores", "accepted", "rejected", "reclassified"}
_MAX_SCORE = 1e300  # NaN, infinity and integers without end are no scores


@dataclass(frozen=True)
class Review:
    """What a person decided about the masks of one file of pseudo labels.

    Attributes:
        labels_sha256: of the file, 64 hex digits.
        min_scores: category id -> least score of its masks that nobody decided about.
        accepted: ids of the annotations that stay, whatever their score.
        rejected: ids of those that go.
        classes: annotation id -> category id, of those that stay as objects of another class.
        path: where it was read, for messages.
    """

    labels_sha256: str
    min_scores: Mapping[Hashable, float] = field(default_factory=dict)
    accepted: frozenset[Hashable] = frozenset()
    rejected: frozenset[Hashable] = frozenset()
    classes: Mapping[Hashable, Hashable] = field(default_factory=dict)
    path: str = ""

    def category_of(self, mask_id: Hashable, category_id: Hashable, score: float) -> Any:
        """The category that the review gives a mask; None where the mask goes."""
        if mask_id in self.rejected:
            return None
        if mask_id in self.accepted:
            return category_id
        if mask_id in self.classes:
            return self.classes[mask_id]
        return category_id if score >= self.min_scores.get(category_id, -_MAX_SCORE) else None

    def check_file(self, labels_file: str | os.PathLike) -> None:
        """Make sure that a file of pseudo labels is the reviewed one.

        Raises:
            UserError: it is another, or there is none.
        """
        try:
            found = file_sha256(os.fspath(labels_file))
        except OSError as error:
            raise UserError(f"'{labels_file}' cannot be read: {error.strerror}") from None
        if found != self.labels_sha256:
            raise UserError(
                f"review '{self.path}' is of other pseudo labels than '{labels_file}' (their "
                f"SHA-256 is {self.labels_sha256[:12]}..., that of the file {found[:12]}...): "
                "review these labels in their own report"
            )

    def check_ids(self, mask_ids: Iterable[Hashable], category_ids: Collection[Hashable]) -> None:
        """Make sure that the labels have what the review speaks of.

        Args:
            mask_ids: ids of the annotations that are no crowd regions.
            category_ids: of all classes.

        Raises:
            UserError: the review names something else.
        """
        unknown = (self.accepted | self.rejected | set(self.classes)) - set(mask_ids)
        if unknown:
            raise UserError(
                f"review '{self.path}' decides about mask {min(unknown, key=str)!r}, which the "
                f"pseudo labels do not have ({len(unknown)} such): review these labels in their "
                "own report"
            )
        unknown = (set(self.min_scores) | set(self.classes.values())) - set(category_ids)
        if unknown:
            raise UserError(
                f"review '{self.path}' names category {min(unknown, key=str)!r}, which the pseudo "
                "labels do not have: review these labels in their own report"
            )

    def to_json(self) -> dict[str, Any]:
        """As :func:`read_review` takes it."""
        scores = self.min_scores.items()
        return {
            "review": REVIEW_VERSION,
            "labels_sha256": self.labels_sha256,
            "min_scores": [{"category_id": c, "score": s} for c, s in scores],
            "accepted": sorted(self.accepted, key=_order),
            "rejected": sorted(self.rejected, key=_order),
            "reclassified": [{"id": i, "category_id": c} for i, c in self.classes.items()],
        }


def _order(id_: Hashable) -> tuple[bool, Any]:
    return isinstance(id_, str), id_


def read_review(path: str | os.PathLike) -> Review:
    """Read a review, which anybody may have written.

    Raises:
        UserError: the file is missing, is not JSON, or is no review.
    """
    content = load_json(path)
    try:
        return _review_of(content, os.fspath(path))
    except ValueError as error:
        raise UserError(
            f"'{path}' is no review of pseudo labels ({error}): take the file that the report "
            "offers as a download"
        ) from None


def _review_of(content: Any, path: str) -> Review:
    if not isinstance(content, dict) or "review" not in content:
        raise ValueError("it is no object with the key 'review'")
    version = content["review"]
    if isinstance(version, bool) or version != REVIEW_VERSION:
        raise ValueError(f"its version is not {REVIEW_VERSION}")
    if set(content) - _KEYS:
        raise ValueError(f"it has the unknown key {min(set(content) - _KEYS)!r}")
    sha256 = content.get("labels_sha256")
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError("labels_sha256 is no SHA-256 of 64 hex digits")
    accepted = [_id(item, "accepted") for item in _list(content, "accepted")]
    rejected = [_id(item, "rejected") for item in _list(content, "rejected")]
    classes = [
        (_id(item.get("id"), "reclassified"), _id(item.get("category_id"), "reclassified"))
        for item in _objects(content, "reclassified")
    ]
    scores = [
        (_id(item.get("category_id"), "min_scores"), _score(item.get("score")))
        for item in _objects(content, "min_scores")
    ]
    _check_unique([*accepted, *rejected, *(id_ for id_, _ in classes)], "mask")
    _check_unique([category_id for category_id, _ in scores], "category")
    return Review(
        sha256, dict(scores), frozenset(accepted), frozenset(rejected), dict(classes), path
    )


def _list(content: Mapping[str, Any], key: str) -> list:
    value = content.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value


def _objects(content: Mapping[str, Any], key: str) -> list[dict]:
    value = _list(content, key)
    if not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{key} is no list of objects")
    return value


def _id(value: Any, key: str) -> Hashable:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id in {key} is neither a whole number nor a text")
    return value


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a score in min_scores is no number")
    if not abs(value) <= _MAX_SCORE:
        raise ValueError("a score in min_scores is not finite")
    return float(value)


def _check_unique(ids: list[Hashable], thing: str) -> None:
    seen = set()
    for id_ in ids:
        if id_ in seen:
            raise ValueError(f"it decides twice about {thing} {str(id_)[:40]!r}")
        seen.add(id_)
