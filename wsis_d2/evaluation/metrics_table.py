"""Instance-mask metrics for people (a table), for JSON, and for Detectron2's flat results."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}


def _groups(metrics, class_names):
    """Every row of the metrics: (kind, name, scalars)."""
    yield "all", "", _scalars(metrics)
    for size, group in metrics["by_size"].items():
        yield "size", size, group
    for count, group in metrics["by_count"].items():
        yield "objects in image", count, group
    for category, group in metrics["per_class"].items():
        yield "class", str((class_names or {}).get(category, category)), group


def format_instance_metrics(
    metrics: Mapping[str, Any], class_names: Mapping[int, str] | None = None
) -> str:
    """Table of the result of :func:`evaluate_instance_masks`: overall, by size, by count, by class.

    Args:
        metrics: as :func:`evaluate_instance_masks` returns.
        class_names: names by category id; the id stands where there is none.
    """
    columns = [key for key in _scalars(metrics) if key != "num_objects"]
    rows = [
        [kind, name, group["num_objects"]]
        + ["-" if math.isnan(group[key]) else f"{group[key]:.1f}" for key in columns]
        for kind, name, group in _groups(metrics, class_names)
    ]
    return tabulate(
        rows,
        headers=["", "", "objects", *columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", "left", *["right"] * (1 + len(columns))],
    )


def flatten_instance_metrics(
    metrics: Mapping[str, Any], class_names: Mapping[int, str] | None = None
) -> "OrderedDict[str, float]":
    """The metrics as Detectron2's evaluators give theirs, one level deep.

    ``AP50`` stays; groups follow a dash: ``AP50-small``, ``ABO-2-4 objects``, ``AP50-<class>``. The
    numbers of objects are left out.
    """
    flat = OrderedDict()
    for kind, name, group in _groups(metrics, class_names):
        suffix = {
            "all": "",
            "objects in image": f"-{name} object{'s' * (name != '1')}",
        }.get(kind, f"-{name}")
        for key, value in group.items():
            if key != "num_objects":
                flat[key + suffix] = value
    return flat
