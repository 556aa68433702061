"""All benchmarks in one run."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import cv2
import torch
from tqdm import tqdm

from ..errors import UserError

# Importing them registers their stages.
from . import cams, evaluation, irnet_labels, peaks, proposals, training  # noqa: F401
from .convolutions import dilated_benchmarks
from .floors import Machine
from .losses import loss_benchmarks
from .measure import Timing, is_cuda, mean_timing, peak_megabytes_of_run
from .profiles import top_operations
from .scaling import scaling_benchmarks
from .stages import BENCHMARK_REGISTRY, Benchmark, Workload, make_workload
from .walk import walk_benchmarks

#: What the package makes fast beside the plain way of doing it, by the names of ``only``.
COMPARISONS: dict[str, Callable[[str], list[dict]]] = {
    "peak_comparison": peaks.peak_benchmarks,
    "loss_comparison": loss_benchmarks,
    "walk_comparison": walk_benchmarks,
    "dilated_comparison": dilated_benchmarks,
}

# Each stage is measured for so many seconds, but at least and at most so many times.
_BUDGET, _LEAST_RUNS, _MOST_RUNS = 4.0, 3, 25
# Sizes that all stages can work on.
_LEAST_EDGE, _MOST_EDGE = 64, 8000


def run_benchmarks(
    device: str = "cpu",
    *,
    images: str = "",
    only: Sequence[str] = (),
    threads: int = 1,
    quick: bool = False,
    profile: bool = False,
    longest_edge: int = 0,
    processes: int = 1,
) -> list[dict]:
    """All benchmarks, or some.

    Args:
        device: where networks and what follows them run.
        images: folder of photos for the stages; empty: a synthetic image of VOC's size.
        only: names of stages and comparisons; none: all (with ``quick`` all stages).
        threads: of the CPU.
        quick: tiny inputs, once each, to see that everything runs.
        profile: say what stands at the top of each stage.
        longest_edge: longer side in pixels that the images are resized to; 0: as they are.
        processes: more than 1: the stages' throughput with so many of one thread, and nothing else;
            see :func:`~wsis_d2.benchmarks.scaling.scaling_benchmarks`.

    Returns:
        One dict each, JSON-ready but for NaN.

        The machine: ``name`` "machine" with ``processor``, ``threads``, ``torch`` and ``load``
        (processes that wanted a CPU in the last minute, those of others included); and the rates
        that floors were made of, with ``seconds`` and ``giga_per_second``.

        Stages: ``name``, ``input``, ``runs``, ``seconds`` and ``cpu_seconds`` per image (or
        iteration) by the clock and of the process's CPU time, ``peak_megabytes`` of a run beyond
        what was in use, and ``gflop``, ``megabytes``, ``floor_seconds`` and ``distance``, the time
        over the floor, NaN where no floor is known. On one thread of a CPU that time is without
        what other processes took. With ``profile`` also ``profile``, see
        :func:`~wsis_d2.benchmarks.profiles.top_operations`.

        Comparisons: ``name``, ``seconds``, and where something plain stands beside it
        ``baseline_seconds``, ``speedup`` (the ratio) and ``max_difference`` (largest difference of
        the results); ``peak_megabytes`` and ``baseline_peak_megabytes`` where memory is the point.

    Raises:
        UserError: no benchmark of a name, no such device, size or number of threads, or no photos.
    """
    _check(device, threads, longest_edge, processes)
    stages = [name for name, _ in BENCHMARK_REGISTRY]
    if processes > 1:
        names = _chosen(only, stages) or stages
        return scaling_benchmarks(names, processes, images, quick, longest_edge)
    names = _chosen(only, [*stages, *COMPARISONS]) or [*stages, *(() if quick else COMPARISONS)]
    machine, results = Machine(quick), []
    with _threads(threads):
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
        workload = make_workload(images, device, quick, longest_edge)
        for name in tqdm(names, "Benchmarks", unit="stage"):
            if name in COMPARISONS:
                results += COMPARISONS[name](device)
            else:
                results.append(measure_stage(name, workload, machine, profile))
    processor = torch.cuda.get_device_name(device) if is_cuda(device) else _processor()
    return [
        {
            "name": "machine",
            "processor": processor,
            "threads": threads,
            "torch": torch.__version__,
            "load": load,
        },
        *machine.figures(),
        *results,
    ]


def measure_stage(
    name: str, workload: Workload, machine: Machine, profile: bool = False
) -> dict[str, Any]:
    """The figures of one stage, see :func:`run_benchmarks`."""
    stage = BENCHMARK_REGISTRY.get(name)(workload)
    run, inputs, items = stage.run, stage.inputs, stage.items
    run(inputs[0])
    budget, least, most = (0.0, 1, 1) if workload.quick else (_BUDGET, _LEAST_RUNS, _MOST_RUNS)
    timing, num_runs = mean_timing(run, inputs, stage.device, budget, least, most)
    peak = peak_megabytes_of_run(lambda: run(inputs[0]), stage.device)
    figures = {
        "name": name,
        "input": stage.what,
        "runs": num_runs,
        "seconds": timing.seconds / items,
        "cpu_seconds": timing.cpu_seconds / items,
        "peak_megabytes": peak,
    }
    figures |= _floor_figures(stage, timing, machine)
    if profile:
        figures["profile"] = top_operations(run, inputs[0])
    return figures


def _floor_figures(stage: Benchmark, timing: Timing, machine: Machine) -> dict[str, float]:
    """Work and floor per image, the mean over the inputs, and the distance of the time from it."""
    if stage.work is None:
        return dict.fromkeys(("gflop", "megabytes", "floor_seconds", "distance"), math.nan)
    works = [stage.work(x) for x in stage.inputs]
    number = len(works) * stage.items
    floor = sum(machine.floor_seconds(work, stage.device) for work in works) / number
    return {
        "gflop": sum(sum(work.flops.values()) for work in works) / number / 1e9,
        "megabytes": sum(work.bytes for work in works) / number / 1e6,
        "floor_seconds": floor,
        "distance": timing.undisturbed(stage.device) / stage.items / floor,
    }


def _check(device: str, threads: int, longest_edge: int, processes: int) -> None:
    if is_cuda(device) and not torch.cuda.is_available():
        raise UserError(f"--device is '{device}', but PyTorch finds no GPU: choose 'cpu'")
    if threads < 1:
        raise UserError(f"--threads is {threads}: give 1 or more")
    if processes < 1:
        raise UserError(f"--processes is {processes}: give 1 or more")
    if processes > 1 and (is_cuda(device) or threads > 1):
        raise UserError("--processes are of one thread on a CPU: give --device cpu --threads 1")
    if longest_edge and not _LEAST_EDGE <= longest_edge <= _MOST_EDGE:
        raise UserError(f"--size is {longest_edge}: give {_LEAST_EDGE} to {_MOST_EDGE} pixels")


def _chosen(only: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in only:
        if name not in known:
            raise UserError(f"--only names {name!r}: choose among {', '.join(known)}")
    return [name for name in known if name in only]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(number)
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _processor() -> str:
    """The CPU's name, as far as the system tells."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
