"""Time and memory, measured in the same way for every benchmark."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def compare(
    ours: Callable[[], Tensor],
    baseline: Callable[[], Tensor],
    device: str,
    num_pairs: int = 3,
    baseline_runs_once: bool = False,
) -> tuple[dict, Tensor]:
    """Two ways of doing the same, each run once to warm up and then in turn.

    Args:
        ours: the fast way.
        baseline: the plain way.
        device: where both of them compute.
        num_pairs: pairs of runs; the medians are reported.
        baseline_runs_once: for one so slow that its warm-up hardly counts: this run is its time.

    Returns:
        ``seconds`` and ``baseline_seconds`` (medians), ``speedup`` (median of the pairwise ratios)
        and ``max_difference`` (largest difference of the results); and the baseline's result.
    """
    result, _ = _timed(ours, device)
    expected, first_seconds = _timed(baseline, device)
    pairs = []
    for _ in range(num_pairs):
        _, seconds = _timed(ours, device)
        pairs.append(
            (seconds, first_seconds if baseline_runs_once else _timed(baseline, device)[1])
        )
    figures = {
        "seconds": statistics.median(a for a, _ in pairs),
        "baseline_seconds": statistics.median(b for _, b in pairs),
        "speedup": statistics.median(b / a for a, b in pairs),
        "max_difference": (result - expected).abs().max().item(),
    }
    return figures, expected


def median_seconds(function: Callable[[], Tensor], device: str, num_runs: int) -> float:
    """The median time of ``num_runs`` runs after one to warm up."""
    _timed(function, device)
    return statistics.median(_timed(function, device)[1] for _ in range(num_runs))


def peak_megabytes(
    function: Callable[..., Tensor], small_inputs: Sequence, inputs: Sequence, device: str
) -> float:
    """Megabytes (1e6 bytes) at the peak of ``function(*inputs)``, beyond those in use before it.

    On a CPU they are the process's, so :func:`in_fresh_process` is the place for it.

    Args:
        function: what is measured.
        small_inputs: of a run before, to warm up: what loads at its first use is no part of it.
        inputs: made before, they do not count either.
        device: where the function computes.

    Returns:
        NaN where the system does not tell.
    """
    function(*small_inputs)
    memory = _CudaMemory(device) if _is_cuda(device) else _ProcessMemory()
    before = memory.reset()
    function(*inputs)
    return (memory.peak() - before) / 1e6


def in_fresh_process(function: Callable, *args: object) -> Any:
    """What ``function(*args)`` returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args).result()


def _timed(function: Callable[[], Tensor], device: str) -> tuple[Tensor, float]:
    """The result and the seconds it took, until the device was done."""
    _synchronize(device)
    start = time.perf_counter()
    result = function()
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


class _CudaMemory:
    """What PyTorch has allocated on the device, in bytes."""

    def __init__(self, device: str):
        self.device = device

    def reset(self) -> float:
        """Start again; returns what is in use now."""
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> float:
        """The most since then."""
        return torch.cuda.max_memory_allocated(self.device)


class _ProcessMemory:
    """Resident memory of this process, in bytes, as Linux counts it; NaN elsewhere."""

    def reset(self) -> float:
        """Start again; returns what is in use now."""
        # Some containers forbid it: then the peak is that of the whole life of the process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return self._bytes("VmRSS")

    def peak(self) -> float:
        """The most since then."""
        # resource.getrusage would count what the parent had when it started this process.
        return self._bytes("VmHWM")

    def _bytes(self, key: str) -> float:
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        kilobytes = (int(line.split()[1]) for line in lines if line.startswith(key))
        return 1024 * next(kilobytes, math.nan)
