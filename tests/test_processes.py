"""Processes that end together, tried with forks of this one."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from wsis_d2 import processes
from wsis_d2.errors import UserError
from wsis_d2.processes import (
    EXIT_TERMINATED,
    Terminated,
    end_with_parent,
    on_sigterm,
    raise_terminated,
    run_processes,
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


@pytest.fixture
def forked(monkeypatch):
    """:func:`run_processes` forks its workers from this process, which needs no server."""
    monkeypatch.setattr(processes, "start_method", lambda: "fork")


def _fail_or_wait(index, connection, fail):
    if index == 0:
        fail()
    connection.send("ready")
    time.sleep(600)


def _raise_user_error():
    raise UserError("there are\nno images")


def _raise_full_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log.txt")


def _kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (_raise_user_error, "^there are no images$"),
        (_raise_full_disk, r"^'log.txt' cannot be written \(No space left on device\): make room"),
        (_kill_itself, "^process [0-9]+ of this run was ended by SIGKILL"),
    ],
)
def test_one_failure_is_one_sentence_and_ends_the_others(forked, fail, message):
    here, there = FORK.Pipe()
    with pytest.raises(UserError, match=message):
        run_processes(_fail_or_wait, 3, (there, fail))
    there.close()
    with pytest.raises(EOFError):  # no other holds its end
        deque(iter(here.recv, None))


def _end_or_wait(index):
    """The second process is sent SIGTERM; the first, which waits for it, is not."""
    if index == 1:
        raise Terminated
    time.sleep(600)


def test_a_worker_that_alone_was_sent_sigterm_ends_the_job_as_if_all_were(forked):
    with pytest.raises(Terminated):
        run_processes(_end_or_wait, 2, ())


def test_a_bug_keeps_its_traceback(forked):
    with pytest.raises(processes.mp.ProcessRaisedException, match="division by zero"):
        run_processes(_divide, 2, ())


def _divide(index):
    return 1 / index


def _run_workers(connection):
    with pytest.raises(Terminated), on_sigterm(raise_terminated):
        run_processes(_wait, 2, (connection,))


def _wait(_, connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    connection.send("ready")
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_runs_them(forked, number):
    here, there = FORK.Pipe()
    parent = FORK.Process(target=_run_workers, args=(there,))
    parent.start()
    there.close()
    assert [here.recv(), here.recv()] == ["ready", "ready"]
    os.kill(parent.pid, number)
    parent.join()
    assert parent.exitcode == (0 if number == signal.SIGTERM else -number)
    with pytest.raises(EOFError):
        here.recv()


def _say_who_forked_it(_, connection):
    parent = os.getppid()
    os.kill(parent, signal.SIGTERM)  # as to every process of a job
    heeds_sigterm = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    connection.send((parent, heeds_sigterm))


def test_workers_are_forks_of_one_server_that_outlives_sigterm(warm_workers):
    here, there = multiprocessing.get_context("forkserver").Pipe()
    for _ in range(2):
        run_processes(_say_who_forked_it, 2, (there,))
    parents, heed_sigterm = zip(*(here.recv() for _ in range(4)))
    assert len(set(parents)) == 1
    assert os.getpid() not in parents
    assert all(heed_sigterm)


def test_in_another_environment_workers_start_afresh(monkeypatch):
    monkeypatch.setattr(processes, "_server_environment", None)
    assert processes.start_method() == "forkserver"
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    assert processes.start_method() == "spawn"


# A fork of a process that has asked for GPUs cannot use them.
_IMPORT_WITHOUT_CUDA = """
import torch
def refuse(*_): raise AssertionError("CUDA was asked for")
for name in ("is_available", "device_count", "_lazy_init", "init"):
    setattr(torch.cuda, name, refuse)
import threading
before = threading.active_count()
import wsis_d2.fork_server
assert threading.active_count() == before
"""


def test_the_server_has_no_cuda_and_no_threads():
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITHOUT_CUDA], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def _run_workers_deafly(connection):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # the thread gets it
    _run_workers(connection)
    os._exit(0)


def test_a_signal_that_another_thread_gets_is_heeded(forked):
    here, there = FORK.Pipe()
    parent = FORK.Process(target=_run_workers_deafly, args=(there,))
    parent.start()
    there.close()
    assert [here.recv(), here.recv()] == ["ready", "ready"]
    os.kill(parent.pid, signal.SIGTERM)
    parent.join(60)
    exitcode = parent.exitcode
    parent.kill()  # and with it its workers
    assert exitcode == 0
