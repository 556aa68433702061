"""Processes that end together: workers with the process that started them, all of them on SIGTERM.

A cluster's scheduler ends a job with SIGTERM and, half a minute later, with SIGKILL, often sent to
the first process alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as mp

from .errors import UserError, explain, say_full_disks_once

#: As shells have it: 128 and the signal's number.
EXIT_TERMINATED = 128 + signal.SIGTERM

#: How long the other processes of a job may go on once one has ended after SIGTERM.
GRACE_SECONDS = 30.0

#: How often a process that waits for its workers looks whether it was sent a signal.
WAKE_SECONDS = 1.0


class Terminated(SystemExit):
    """Raised in a process that was sent SIGTERM; where nothing stops it, the exit code is 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


def raise_terminated(*_: Any) -> None:
    """A handler of SIGTERM that lets the process clean up."""
    raise Terminated


@contextmanager
def on_sigterm(handler: Callable[..., Any]) -> Iterator[None]:
    """Handle SIGTERM while the block runs; not in another thread than the main one, which Python
    alone allows to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_parent() -> None:
    """Let a worker end as soon as its parent has, even if that was killed.

    Linux's PR_SET_PDEATHSIG, which torch's processes ask for, is not enough: their signal is
    SIGINT, and whoever starts a job in the background of a script has it ignored.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(EXIT_TERMINATED)

    threading.Thread(target=watch, daemon=True).start()


def terminate(processes: Sequence[BaseProcess]) -> None:
    """End processes by SIGTERM, after which they may write a checkpoint, and wait for them.

    As soon as one has ended, the others have :data:`GRACE_SECONDS`: they may be waiting for it.
    Another signal to this process kills them all.
    """
    try:
        for process in processes:
            process.terminate()
        wait([process.sentinel for process in processes])
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        kill(processes)


def kill(processes: Sequence[BaseProcess]) -> None:
    """End processes at once; what they write is whole or not there."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def start_method() -> str:
    """How to start a worker of this process, as ``multiprocessing.get_context`` takes it.

    "forkserver": forks of a server that has imported the package (:mod:`wsis_d2.fork_server`). It
    has the environment of the first call; where that was changed since, it is "spawn", as on
    systems without forks. Never a fork of this process: its libraries may run threads, CUDA's
    above all, without which a fork may hang.
    """
    global _server_environment
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    if _server_environment is None:
        _prepare_fork_server()
        _server_environment = dict(os.environ)
    return "forkserver" if _server_environment == os.environ else "spawn"


_server_environment: dict[str, str] | None = None


def _prepare_fork_server() -> None:
    """Let this process's fork server, once it is started, import the package."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["wsis_d2.fork_server"])


def run_processes(worker: Callable, num_processes: int, args: tuple) -> None:
    """Run ``worker(i, *args)`` in new processes, and wait for them.

    Where one fails, the others, which may wait for it, are killed. They end with this process, and
    by SIGTERM where it is interrupted.

    Args:
        worker: a function that can be pickled, as can ``args``.
        num_processes: i is 0 .. num_processes - 1.
        args: the other arguments.

    Raises:
        UserError: a worker raised one, found the disk full or was ended by a signal.
        Terminated: one was sent SIGTERM, and ended by itself.
    """
    method = start_method()
    messages = mp.get_context(method).SimpleQueue()
    context = mp.start_processes(
        _reporting_worker,
        args=(messages, worker, args),
        nprocs=num_processes,
        daemon=False,
        join=False,
        start_method=method,
    )
    try:
        _wait_for_processes(context.processes)
        while not context.join():
            pass
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        if not messages.empty():
            raise UserError(messages.get()) from error
        if any(process.exitcode == EXIT_TERMINATED for process in context.processes):
            raise Terminated from error  # it was sent SIGTERM, this process was not
        if isinstance(error, mp.ProcessExitedException) and error.signal_name:
            raise UserError(
                f"process {error.error_pid} of this run was ended by {error.signal_name}: often "
                "there was too little memory; then run the same command with --resume"
            ) from error
        raise
    except BaseException:
        terminate(context.processes)
        raise


def _wait_for_processes(processes: Sequence[BaseProcess]) -> None:
    """Until all have ended, or one has failed: the others, who may wait for it, are killed then."""
    running = {process.sentinel: process for process in processes}
    while running:
        # The kernel may give a signal to another thread, as after a job was suspended: it ends no
        # waiting, so that Python would not run the handler before a worker ends.
        ended = [running.pop(sentinel) for sentinel in wait(list(running), WAKE_SECONDS)]
        for process in ended:
            process.join()
        if any(process.exitcode for process in ended):
            kill(list(running.values()))
            return


def _reporting_worker(local_rank: int, messages, worker: Callable, args: tuple) -> None:
    end_with_parent()
    say_full_disks_once()
    if multiprocessing.get_start_method() == "forkserver":
        _prepare_fork_server()  # Python starts the workers of a fork's loaders by one of its own
    try:
        worker(local_rank, *args)
    except Exception as error:
        message = explain(error)
        if not message:
            raise
        # The parent shows one sentence, not the traceback of a child process.
        messages.put(message)
        raise SystemExit(1) from error
