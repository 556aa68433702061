"""All benchmarks in one run."""

from __future__ import annotations

from .losses import loss_benchmarks
from .peaks import peak_benchmarks
from .walk import walk_benchmarks


def run_benchmarks(device: str = "cpu") -> list[dict]:
    """All benchmarks.

    Returns:
        One dict each: ``name``, ``seconds``, and where something plain stands beside it
        ``baseline_seconds``, ``speedup`` (the ratio) and ``max_difference`` (largest difference of
        the results); ``peak_megabytes`` and ``baseline_peak_megabytes`` where memory is the point.
    """
    return [*peak_benchmarks(device), *loss_benchmarks(device), *walk_benchmarks(device)]
