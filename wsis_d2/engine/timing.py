"""Two ways of doing the same, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

#: Pairs of runs after one warm-up of each; the median ratio is reported.
NUM_PAIRS = 3


def compare(
    ours: Callable[[], torch.Tensor], baseline: Callable[[], torch.Tensor], device: str
) -> dict:
    """Run both in turn and compare times and results.

    Returns:
        ``seconds`` and ``baseline_seconds`` (medians), ``speedup`` (median of the pairwise ratios),
        ``max_difference`` (largest difference of the results).
    """
    difference = (ours() - baseline()).abs().max().item()
    pairs = [(_seconds(ours, device), _seconds(baseline, device)) for _ in range(NUM_PAIRS)]
    return {
        "seconds": statistics.median(a for a, _ in pairs),
        "baseline_seconds": statistics.median(b for _, b in pairs),
        "speedup": statistics.median(b / a for a, b in pairs),
        "max_difference": difference,
    }


def _seconds(function: Callable[[], torch.Tensor], device: str) -> float:
    start = time.perf_counter()
    function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
