"""The figures as people read them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate

from ..errors import UserError
from ..files import load_json

#: Figures that are compared where both sides have them, and the names of their ratios.
_COMPARED = {"seconds": "speed-up", "cpu_seconds": "CPU", "peak_megabytes": "memory"}


def format_results(results: Sequence[dict[str, Any]]) -> str:
    """A table for each kind of figures, and what stands at the top of each stage."""
    rows = [{k: v for k, v in result.items() if k != "profile"} for result in results]
    tables = [
        tabulate(list(same), headers="keys", floatfmt=".3g", missingval="-")
        for _, same in groupby(rows, key=tuple)
    ]
    profiles = [_format_profile(result) for result in results if "profile" in result]
    return "\n\n".join([*tables, *profiles])


def _format_profile(result: dict[str, Any]) -> str:
    lines = [f"  {100 * p['share']:5.1f} %  {p['operation']}" for p in result["profile"]]
    return "\n".join([f"{result['name']}:", *lines])


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The figures of an earlier run.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    results = load_json(path)
    if not isinstance(results, list) or not all(
        isinstance(figures, dict) and "name" in figures for figures in results
    ):
        raise UserError(f"'{path}' holds no figures: give a file that --output has written")
    return results


def format_comparison(results: Sequence[dict[str, Any]], old: Sequence[dict[str, Any]]) -> str:
    """A table of ratios, old over new: above 1 what is new is faster or smaller.

    Figures that only one side has are left out. A stage whose input is another one is marked.

    Args:
        results: as of :func:`wsis_d2.benchmarks.run_benchmarks`.
        old: the same, of another run.
    """
    before = {figures["name"]: figures for figures in old}
    rows = [
        _ratios(result, before[result["name"]]) for result in results if result["name"] in before
    ]
    return tabulate([row for row in rows if len(row) > 1], headers="keys", floatfmt=".3g")


def _ratios(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    mark = "" if new.get("input") == old.get("input") else " (another input)"
    row = {"name": new["name"] + mark}
    for key, title in _COMPARED.items():
        if new.get(key) and old.get(key):
            row |= {f"old {key}": old[key], f"new {key}": new[key], title: old[key] / new[key]}
    return row
