"""The same work on many images, in as many processes as there are CPUs; and waiting for others."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cv2
import torch
import torch.distributed as dist
from detectron2.utils import comm
from tqdm import tqdm

from .errors import UserError
from .processes import end_with_parent, start_method

# Below this many images per process, starting one costs more than it saves.
_MIN_IMAGES_PER_WORKER = 16

#: All processes of the job, for waits that take as long as they take. Not NCCL: gloo's connections
#: tell at once when another process is gone, so that no short timeout has to find that out.
_PATIENT_GROUP: dist.ProcessGroup | None = None
_PATIENCE = timedelta(days=30)


def create_patient_group() -> None:
    """Make the group of :func:`synchronize_patiently`; all processes of the job call it together.

    :func:`wsis_d2.engine.launch.launch` does.
    """
    global _PATIENT_GROUP
    _PATIENT_GROUP = dist.new_group(backend="gloo", timeout=_PATIENCE)


def forget_patient_group() -> None:
    """Let go of the group, whose threads live as long as it does."""
    global _PATIENT_GROUP
    _PATIENT_GROUP = None


def synchronize_patiently() -> None:
    """Wait for all processes of the job, however long one of them works.

    :func:`detectron2.utils.comm.synchronize` gives up after the job's timeout (30 minutes), and the
    job with it: too soon where the main process evaluates a large dataset alone. In a job that was
    not started by :func:`wsis_d2.engine.launch.launch` it is that function.

    Raises:
        RuntimeError: another process is gone.
    """
    if _PATIENT_GROUP is None or comm.get_world_size() == 1:
        comm.synchronize()
    else:
        dist.barrier(group=_PATIENT_GROUP)


@contextmanager
def one_thread_on_cpu(device: str = "cpu") -> Iterator[None]:
    """Sums over threads depend on their number, and with them the last digits of the scores.

    One thread per process, and as many processes as you like, give the same bytes.

    Args:
        device: what the network computes on. With a GPU nothing changes: its sums have an order of
            their own, and what is left to the CPU takes as many threads as the process has.
    """
    if torch.device(device).type == "cuda":
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def deal_images(dataset: Sequence[Mapping[str, Any]], num_shares: int) -> list[list]:
    """Share images out so that all shares take about as long.

    In the order of their sizes, largest first, each share gets every ``num_shares``-th. So the
    pixels of two shares differ by less than one image, the largest, and an image that is too large
    for the memory is met at once.

    Args:
        dataset: dicts with ``height`` and ``width``.
        num_shares: at least 1.

    Returns:
        The shares, the larger by one image first.
    """
    ordered = sorted(dataset, key=lambda d: -int(d["height"]) * int(d["width"]))
    return [ordered[i::num_shares] for i in range(num_shares)]


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of a dataset, which runs that know nothing of each other work on.

    Attributes:
        index: 0 .. count - 1.
        count: number of parts.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"0/4"`` is the first of four.

        Raises:
            UserError: it is not that of a shard.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(
                f"--shard is '{text}': give I/N with I from 0 to N - 1, such as 0/4 for the first "
                "of four"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """For the names of files: ``shard-0-of-4``."""
        return f"shard-{self.index}-of-{self.count}"

    def select(self, dataset: Sequence[Mapping[str, Any]]) -> list:
        """The shard's images; see :func:`deal_images`."""
        return deal_images(dataset, self.count)[self.index]


def available_cpus() -> int:
    """How many CPUs this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_images(
    work: Callable[[Any], Any], tasks: Sequence[Any], what: str, num_workers: int
) -> list[Any]:
    """What ``work`` makes of the task of each image, in their order, with a progress bar.

    Args:
        work: where there are processes, it, the tasks and what it returns are pickled.
        tasks: one per image.
        what: what is made, in the plural, for the bar: "proposals".
        num_workers: processes at the most; few images get fewer, 0 or 1 works in this one.

    Raises:
        UserError: a process was killed.
    """
    num_workers = min(num_workers, len(tasks) // _MIN_IMAGES_PER_WORKER)
    with tqdm(total=len(tasks), desc=what.capitalize(), unit="image", mininterval=1.0) as progress:
        if num_workers <= 1:
            results = []
            for task in tasks:
                results.append(work(task))
                progress.update()
            return results
        context = multiprocessing.get_context(start_method())
        with ProcessPoolExecutor(num_workers, context, _begin_worker) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            except BrokenProcessPool as error:
                raise UserError(
                    f"a process that made {what} was ended by a signal: often there was too little "
                    "memory; run again"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]


def for_each_image(
    work: Callable[[Any], str], tasks: Sequence[Any], what: str, num_workers: int
) -> None:
    """Run ``work`` on the task of each image, with a progress bar.

    Args:
        work: makes what is wanted of one image and returns what the user must know if it cannot,
            "" where all went well.
        tasks, what, num_workers: see :func:`map_images`.

    Raises:
        UserError: some images failed; the others are done first.
    """
    failures = [message for message in map_images(work, tasks, what, num_workers) if message]
    if failures:
        raise UserError(
            f"{len(failures)} of {len(tasks)} images have no {what}, the others are done: "
            + "; ".join(sorted(failures)[:10])
            + ("; ..." if len(failures) > 10 else "")
        )


def _begin_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
