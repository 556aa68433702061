"""Images per second of several processes at once, beside those of one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import torch

from ..allocator import keep_freed_memory
from ..processes import run_processes, start_method
from .floors import plain_copy, plain_product
from .stages import BENCHMARK_REGISTRY, make_workload

#: What no stage can scale better than: all arithmetic, and all memory.
_PLAIN = {"matrix product": plain_product, "copy": plain_copy}
# One process alone and all at once take turns; each turn takes about so many seconds.
_ROUNDS, _BUDGET = 2, 4.0


def scaling_benchmarks(
    names: Sequence[str],
    num_processes: int,
    images: str = "",
    quick: bool = False,
    longest_edge: int = 0,
) -> list[dict]:
    """One thread per process, on a CPU; each process has images of its own, as in labelling.

    Args:
        names: of stages.
        num_processes: at once, two or more.
        images: see :func:`~wsis_d2.benchmarks.run_benchmarks`, as ``quick`` and ``longest_edge``.

    Returns:
        One dict for a plain matrix product, a plain copy, and each stage: ``name``, ``processes``,
        ``seconds`` per image (or iteration) of all, ``baseline_seconds`` of one alone, and
        ``speedup``, their ratio.
    """
    rows = []
    for name in (*_PLAIN, *names):
        context = multiprocessing.get_context(start_method())
        barrier, rates = context.Barrier(num_processes), context.SimpleQueue()
        args = (barrier, rates, name, images, quick, longest_edge)
        run_processes(_measure, num_processes, args)
        found = [rates.get() for _ in range(num_processes)]
        alone = sum(alone for alone, _ in found)
        together = sum(together for _, together in found)
        rows.append(
            {
                "name": name,
                "processes": num_processes,
                "seconds": 1 / together,
                "baseline_seconds": 1 / alone,
                "speedup": together / alone,
            }
        )
    return rows


def _measure(
    number: int, barrier, rates, name: str, images: str, quick: bool, longest_edge: int
) -> None:
    """Put this process's images per second into ``rates``: alone (0.0 but for the first process),
    and beside the others."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    run, items = _stage(name, images, quick, longest_edge)
    run()
    alone, together = [], []
    for _ in range(_ROUNDS):
        barrier.wait()
        if number == 0:
            alone.append(items * _runs_per_second(run, quick))
        barrier.wait()
        together.append(items * _runs_per_second(run, quick))
    rates.put((sum(alone) / _ROUNDS, sum(together) / _ROUNDS))


def _stage(name: str, images: str, quick: bool, longest_edge: int) -> tuple[Callable[[], Any], int]:
    """A function that runs a stage on all inputs, and the number of images that these are."""
    if name in _PLAIN:
        return _PLAIN[name](quick), 1
    workload = make_workload(images, "cpu", quick, longest_edge)
    stage = BENCHMARK_REGISTRY.get(name)(workload)
    return lambda: [stage.run(x) for x in stage.inputs], len(stage.inputs) * stage.items


def _runs_per_second(run: Callable[[], Any], quick: bool) -> float:
    start, number = time.perf_counter(), 0
    while True:
        run()
        number += 1
        seconds = time.perf_counter() - start
        if quick or seconds > _BUDGET:
            return number / seconds
