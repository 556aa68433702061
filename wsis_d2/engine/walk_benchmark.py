"""Timings and memory of the random walk beside the dense matrix that it stands for."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import boundary_affinity, random_walk

#: Runs after the first; the median is reported. The dense walk, slow as it is, runs once.
NUM_RUNS = 9


def walk_benchmarks(device: str = "cpu") -> list[dict]:
    """The walk of IRNet (radius 5, beta 10, 256 steps), 10 maps at stride 4, 4 at stride 1.

    On a CPU both methods run on one thread, as label generation does: a walk is many short
    products, and on a busy machine more threads spend their time waiting for each other.

    Returns:
        One dict each with ``name`` and ``seconds``; beside the dense walk also
        ``baseline_seconds``, ``speedup``, ``max_difference`` and ``relative_error``: this
        difference over the largest result; else ``peak_megabytes``: what affinity and walk take at
        most.
    """
    # On a CPU, the dense walk on the larger map takes minutes and gigabytes.
    compared = (125, 94) if torch.device(device).type == "cuda" else (64, 80)
    return [
        walk_against_dense(device, 10, *compared),
        walk_alone(device, 10, 125, 94),
        walk_alone(device, 4, 375, 500),
    ]


def walk_against_dense(device: str, num_maps: int, height: int, width: int) -> dict:
    """Both methods of :func:`random_walk` on the same affinity."""
    x, boundary = _problem(device, num_maps, height, width)
    affinity = boundary_affinity(boundary, radius=5)
    with _one_thread():
        result, seconds = _timed(lambda: random_walk(x, affinity), device, NUM_RUNS)
        dense, dense_seconds = _timed(lambda: random_walk(x, affinity, method="dense"), device, 0)
    difference = (result - dense).abs().max().item()
    return {
        "name": f"random walk, {num_maps} maps, {height} x {width}, {device}",
        "seconds": seconds,
        "baseline_seconds": dense_seconds,
        "speedup": dense_seconds / seconds,
        "max_difference": difference,
        "relative_error": difference / dense.abs().max().item(),
    }


def walk_alone(device: str, num_maps: int, height: int, width: int) -> dict:
    """Time and peak memory of the affinity and the walk together, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(_measure_alone, (device, num_maps, height, width))
    return {
        "name": f"affinity and random walk, {num_maps} maps, {height} x {width}, {device}",
        "seconds": seconds,
        "peak_megabytes": peak / 1e6,
    }


def _measure_alone(device: str, num_maps: int, height: int, width: int) -> tuple[float, int]:
    """Seconds and bytes."""

    def walk(x: Tensor, boundary: Tensor) -> Tensor:
        return random_walk(x, boundary_affinity(boundary, radius=5))

    torch.set_num_threads(1)
    # Libraries that load at their first use are no part of it.
    walk(*_problem(device, num_maps, 8, 8))
    x, boundary = _problem(device, num_maps, height, width)
    before = _memory_in_use(device)
    walk(x, boundary)
    peak = _peak_memory(device) - before
    _, seconds = _timed(lambda: walk(x, boundary), device, NUM_RUNS)
    return seconds, peak


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _problem(device: str, num_maps: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random maps (K, H, W), and boundaries (H, W) along the zero lines of smooth noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, height // 8 + 2, width // 8 + 2, generator=generator)
    noise = F.interpolate(noise, (height, width), mode="bicubic")[0, 0]
    boundary = torch.exp(-((noise / 0.15) ** 2))
    x = torch.rand(num_maps, height, width, generator=generator) * (1 - boundary)
    return x.to(device), boundary.to(device)


def _timed(function: Callable[[], Tensor], device: str, num_runs: int) -> tuple[Tensor, float]:
    """The result and the median time of ``num_runs`` more runs; with none, of the first one."""
    seconds = []
    for _ in range(num_runs + 1):
        start = time.perf_counter()
        result = function()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds[1:] or seconds)


def _memory_in_use(device: str) -> int:
    """Bytes that this process has now."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated()
    return _process_status("VmRSS")


def _peak_memory(device: str) -> int:
    """Bytes that this process had at most."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    # resource.getrusage would count what the parent had when it started this process.
    return _process_status("VmHWM")


def _process_status(key: str) -> int:
    """Bytes that Linux gives for this process under ``key``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
