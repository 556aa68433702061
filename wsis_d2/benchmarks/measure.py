"""Time and memory, measured in the same way for every benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

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


def median_seconds(function: Callable[[], Any], device: str, num_runs: int) -> float:
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
    return peak_megabytes_of_run(lambda: function(*inputs), device)


def peak_megabytes_of_run(run: Callable[[], Any], device: str) -> float:
    """:func:`peak_megabytes` of a function that is warm already, in this process.

    On a CPU, what the process has kept from earlier work and uses again does not count, so it is
    given back to the system first, where the C library can do that.
    """
    memory = _CudaMemory(device) if is_cuda(device) else _ProcessMemory()
    before = memory.reset()
    run()
    return (memory.peak() - before) / 1e6


def in_fresh_process(function: Callable, *args: object) -> Any:
    """What ``function(*args)`` returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args).result()


class Timing(NamedTuple):
    """Time of a run: as a clock shows it, and what this process had of the CPUs."""

    seconds: float
    cpu_seconds: float

    def undisturbed(self, device: str) -> float:
        """Without what other processes took, where that is known: on one thread of a CPU."""
        alone = torch.get_num_threads() == 1 and not is_cuda(device)
        return min(self) if alone else self.seconds


def mean_timing(
    run: Callable[[Any], Any], inputs: Sequence, device: str, budget: float, least: int, most: int
) -> tuple[Timing, int]:
    """The mean over the inputs of the median time of each; the function is warm already.

    Args:
        run: what is measured.
        inputs: run in turn, round by round.
        device: where the function computes.
        budget: seconds after which no further round begins.
        least, most: number of runs in all, whatever the budget; whole rounds.

    Returns:
        The time, and the number of runs.
    """
    rounds: list[list[Timing]] = []
    start = time.perf_counter()
    while True:
        rounds.append([_timing(run, x, device) for x in inputs])
        num_runs = len(rounds) * len(inputs)
        in_time = time.perf_counter() - start < budget
        if num_runs >= most or (num_runs >= least and not in_time):
            break
    medians = [Timing(*map(statistics.median, zip(*runs))) for runs in zip(*rounds)]
    return Timing(*map(statistics.mean, zip(*medians))), num_runs


def fastest_seconds(function: Callable[[], Any], device: str, num_runs: int = 10) -> float:
    """The least undisturbed time of some runs after one to warm up: what a machine can do."""
    function()
    timings = [_timing(lambda _: function(), None, device) for _ in range(num_runs)]
    return min(timing.undisturbed(device) for timing in timings)


def _timing(run: Callable[[Any], Any], x: Any, device: str) -> Timing:
    cpu_start = time.process_time()
    _, seconds = _timed(lambda: run(x), device)
    return Timing(seconds, time.process_time() - cpu_start)


def _timed(function: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result and the seconds it took, until the device was done."""
    if is_cuda(device):
        return _timed_by_events(function, device)
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def _timed_by_events(function: Callable[[], Any], device: str) -> tuple[Any, float]:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        result = function()
        end.record()
        end.synchronize()
    return result, start.elapsed_time(end) / 1000


def is_cuda(device: str) -> bool:
    """Whether a device, such as "cuda:1", is a GPU of CUDA."""
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
        gc.collect()
        with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries
            ctypes.CDLL(None).malloc_trim(0)
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
