"""What became of the points, boxes and masks that were given of some images."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ..data.stronger_labels import StrongerLabel


def count_stronger_labels(
    given: Mapping[Hashable, Sequence[StrongerLabel]], annotations: Iterable[Mapping[str, Any]]
) -> OrderedDict[str, int]:
    """Count what is given of some images, and what of it became a pseudo label.

    Args:
        given: the labels of each image.
        annotations: those of a COCO dataset of pseudo labels, with ``given`` where
            :class:`wsis_d2.evaluation.PseudoLabelWriter` had it.

    Returns:
        "images" with labels; "masks", "boxes" and "points" that are given; "ellipses", of boxes
        that no mask of the generator fits; "points without a mask", which lie in none; and "not
        used", all that became no label, these among them.
    """
    kinds = Counter(label.kind for labels in given.values() for label in labels)
    used = Counter(annotation.get("given", "") for annotation in annotations)
    used["box"] += used["ellipse"]
    unused = {kind: kinds[kind] - used[kind] for kind in ("mask", "box", "point")}
    return OrderedDict(
        [
            ("images", len(given)),
            ("masks", kinds["mask"]),
            ("boxes", kinds["box"]),
            ("points", kinds["point"]),
            ("ellipses", used["ellipse"]),
            ("points without a mask", unused["point"]),
            ("not used", sum(unused.values())),
        ]
    )
