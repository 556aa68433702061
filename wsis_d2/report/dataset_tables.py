"""What a dataset consists of, as tables of the report: its classes, which of them are together, its
sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .page import ReportTable

#: A table of more classes than this is hard to read: the most frequent ones are shown.
MAX_CLASSES = 20


def dataset_tables(
    dicts: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    sizes: Iterable[tuple[int, int]] = (),
    mask_counts: Sequence[int] = (),
) -> list[ReportTable]:
    """Images per class, co-occurrence of the classes, sizes of the images.

    Args:
        dicts: dataset dicts with ``image_labels``.
        class_names: of all classes.
        sizes: (height, width) of the images, as far as they are known.
        mask_counts: pseudo masks per class; empty: not known.
    """
    labels = [sorted(set(d.get("image_labels", ()))) for d in dicts]
    made = [
        class_table(labels, class_names, mask_counts),
        co_occurrence_table(labels, class_names),
        size_table(sizes),
    ]
    return [table for table in made if table.rows]


def class_table(
    labels: Sequence[Sequence[int]], class_names: Sequence[str], mask_counts: Sequence[int] = ()
) -> ReportTable:
    """Images of each class, and those that show no other."""
    images = Counter(label for found in labels for label in found)
    alone = Counter(found[0] for found in labels if len(found) == 1)
    rows = [
        [
            name,
            images[label],
            100 * images[label] / max(len(labels), 1),
            alone[label],
            *([mask_counts[label]] if mask_counts else []),
        ]
        for label, name in enumerate(class_names)
    ]
    columns = ["Class", "Images", "of all, %", "Alone", *(["Pseudo masks"] if mask_counts else [])]
    return ReportTable(
        "Images per class",
        columns,
        rows,
        note="Alone: images that show no other class, from which it is learnt best.",
    )


def co_occurrence_table(labels: Sequence[Sequence[int]], class_names: Sequence[str]) -> ReportTable:
    """How many images show two classes together, of the classes that are ever together."""
    together: Counter[tuple[int, int]] = Counter()
    for found in labels:
        together.update(combinations(found, 2))
    images = Counter(label for found in labels for label in found)
    involved = sorted(
        {label for pair in together for label in pair}, key=lambda label: (-images[label], label)
    )
    shown = sorted(involved[:MAX_CLASSES])

    def count(one: int, other: int) -> int | None:
        return None if one == other else together[min(one, other), max(one, other)]

    rows = [[class_names[one], *(count(one, other) for other in shown)] for one in shown]
    note = "A class that is nearly always beside another one cannot be told from it by its labels."
    if len(shown) < len(involved):
        note = f"The {len(shown)} most frequent of {len(involved)} classes. {note}"
    columns = ["", *(class_names[c] for c in shown)]
    return ReportTable("Images that show two classes", columns, rows, note, upright=True)


def size_table(sizes: Iterable[tuple[int, int]]) -> ReportTable:
    """The smallest, median and largest sides of the images."""
    sizes = np.array(list(sizes)).reshape(-1, 2)
    if not len(sizes):
        return ReportTable("Sizes of the images, pixels", ["", "Least", "Median", "Most"], [])
    sides = {
        "Width": sizes[:, 1],
        "Height": sizes[:, 0],
        "Shorter side": sizes.min(1),
        "Longer side": sizes.max(1),
    }
    rows = [
        [name, int(side.min()), int(np.median(side)), int(side.max())]
        for name, side in sides.items()
    ]
    different = len(np.unique(sizes, axis=0))
    return ReportTable(
        "Sizes of the images, pixels",
        ["", "Least", "Median", "Most"],
        rows,
        note=f"{len(sizes):,} images of {different:,} different sizes.",
    )
