"""The random walk: beside the dense matrix that it stands for, and alone at full size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import boundary_affinity, random_walk
from ..parallel import one_thread_on_cpu
from .measure import compare, in_fresh_process, median_seconds, peak_megabytes

#: Runs of the walk after the first. The dense walk, slow as it is, runs once.
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
    with one_thread_on_cpu():
        figures, dense = compare(
            lambda: random_walk(x, affinity),
            lambda: random_walk(x, affinity, method="dense"),
            device,
            num_pairs=NUM_RUNS,
            baseline_runs_once=True,
        )
    return {
        "name": f"random walk, {num_maps} maps, {height} x {width}, {device}",
        **figures,
        "relative_error": figures["max_difference"] / dense.abs().max().item(),
    }


def walk_alone(device: str, num_maps: int, height: int, width: int) -> dict:
    """Time and peak memory of the affinity and the walk together, in a process of its own."""
    name = f"affinity and random walk, {num_maps} maps, {height} x {width}, {device}"
    return {"name": name, **in_fresh_process(_measure_alone, device, num_maps, height, width)}


def _measure_alone(device: str, num_maps: int, height: int, width: int) -> dict:
    def walk(x: Tensor, boundary: Tensor) -> Tensor:
        return random_walk(x, boundary_affinity(boundary, radius=5))

    small, large = _problem(device, num_maps, 8, 8), _problem(device, num_maps, height, width)
    with one_thread_on_cpu():
        peak = peak_megabytes(walk, small, large, device)
        seconds = median_seconds(lambda: walk(*large), device, NUM_RUNS)
    return {"seconds": seconds, "peak_megabytes": peak}


def _problem(device: str, num_maps: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random maps (K, H, W), and boundaries (H, W) along the zero lines of smooth noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, height // 8 + 2, width // 8 + 2, generator=generator)
    noise = F.interpolate(noise, (height, width), mode="bicubic")[0, 0]
    boundary = torch.exp(-((noise / 0.15) ** 2))
    x = torch.rand(num_maps, height, width, generator=generator) * (1 - boundary)
    return x.to(device), boundary.to(device)
