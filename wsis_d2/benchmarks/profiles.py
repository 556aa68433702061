"""What stands at the top of a stage's time."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

#: Below this part of the time in PyTorch's operations, Python's functions tell more.
_TORCH_SHARE = 0.5


def top_operations(run: Callable[[Any], Any], x: Any, number: int = 5) -> list[dict]:
    """Where a run spends most of its own time, what it calls not counted.

    Args:
        run: a function that is warm already.
        x: its input.
        number: operations to give.

    Returns:
        ``{"operation", "seconds", "share"}``, longest first, the share of all time as a fraction:
        PyTorch's operations where they take most of it, else Python's functions.
    """
    operations, seconds = _torch_operations(run, x)
    if sum(operations.values()) < _TORCH_SHARE * seconds:
        operations = _python_functions(run, x)
        seconds = sum(operations.values())
    longest = sorted(operations.items(), key=lambda item: -item[1])[:number]
    return [
        {"operation": name, "seconds": own, "share": own / seconds if seconds else 0.0}
        for name, own in longest
    ]


def _torch_operations(run: Callable[[Any], Any], x: Any) -> tuple[dict[str, float], float]:
    """Seconds of each operation, on the GPU where there is one, and of the whole run."""
    with_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if with_cuda else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        run(x)
        if with_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = profiler.key_averages()
    on_gpu = {e.key: e.self_device_time_total / 1e6 for e in events if e.self_device_time_total}
    return on_gpu or {e.key: e.self_cpu_time_total / 1e6 for e in events}, seconds


def _python_functions(run: Callable[[Any], Any], x: Any) -> dict[str, float]:
    profiler = cProfile.Profile()
    profiler.runcall(run, x)
    functions: dict[str, float] = {}
    for (file, line, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():
        place = name if file == "~" else f"{Path(file).name}:{line} {name}"
        functions[place] = functions.get(place, 0.0) + own
    return functions
