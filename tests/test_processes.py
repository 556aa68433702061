"""Processes that end together, tried with forks of this one."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from wsis_d2 import processes
from wsis_d2.processes import (
    EXIT_TERMINATED,
    Terminated,
    end_with_parent,
    on_sigterm,
    raise_terminated,
    terminate,
)

FORK = multiprocessing.get_context("fork")


def _wait_for_parent(connection):
    # As in a job that a script started in the background.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    connection.send(os.getpid())
    time.sleep(600)


def _start_worker(connection):
    FORK.Process(target=_wait_for_parent, args=(connection,)).start()
    time.sleep(600)


def test_a_worker_ends_when_its_parent_is_killed():
    here, there = FORK.Pipe()
    parent = FORK.Process(target=_start_worker, args=(there,))
    parent.start()
    there.close()
    worker = here.recv()
    os.kill(worker, 0)  # it lives
    parent.kill()
    parent.join()
    with pytest.raises(EOFError):
        here.recv()  # it holds the other end as long as it lives


def test_sigterm_unwinds_and_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def work():
        with on_sigterm(raise_terminated):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(600)
            finally:
                cleaned.append(True)

    with pytest.raises(Terminated) as error:
        work()
    assert cleaned
    assert error.value.code == EXIT_TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def look():
        with on_sigterm(raise_terminated):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def _last_word(path, connection):
    def write(*_):
        path.write_text("checkpoint")
        os._exit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, write)
    connection.send("ready")
    time.sleep(600)


def _deaf(connection):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send("ready")
    time.sleep(600)


def test_workers_have_their_last_word_and_who_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    here, there = FORK.Pipe()
    workers = [
        FORK.Process(target=_last_word, args=(tmp_path / "last", there)),
        FORK.Process(target=_deaf, args=(there,)),
    ]
    for worker in workers:
        worker.start()
    assert [here.recv(), here.recv()] == ["ready", "ready"]
    terminate(workers)
    assert [worker.exitcode for worker in workers] == [EXIT_TERMINATED, -signal.SIGKILL]
    assert (tmp_path / "last").read_text() == "checkpoint"


def test_a_second_signal_kills_workers_that_take_long():
    here, there = FORK.Pipe()
    worker = FORK.Process(target=_deaf, args=(there,))
    worker.start()
    here.recv()
    signal_to_come = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))

    def wait_for_worker():
        with on_sigterm(raise_terminated):
            signal_to_come.start()
            terminate([worker])

    with pytest.raises(Terminated):
        wait_for_worker()
    assert worker.exitcode == -signal.SIGKILL
