"""Two runs in one output folder: the second one is told who has it."""

import errno
import os
import re
import signal
import socket

import pytest

from wsis_d2 import folder_lock
from wsis_d2.errors import UserError
from wsis_d2.folder_lock import LOCK_FILE, lock_folder, unlock_folders


@pytest.fixture
def fork():
    """Run a function in another process, which then waits to be killed; gives its pid."""
    pids = []

    def start(function):
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                function()
                os.write(done, b"1")
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(done)
        assert os.read(ready, 1) == b"1"
        os.close(ready)
        return pid

    yield start
    for pid in pids:
        _kill(pid)


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_the_second_run_learns_who_has_the_folder(tmp_path, fork):
    pid = fork(lambda: lock_folder(tmp_path))
    who = re.escape(f"'{tmp_path}' is in use by process {pid} on {socket.gethostname()}: ")
    for _ in range(2):
        with pytest.raises(UserError, match=who):
            lock_folder(tmp_path)


def test_what_a_dead_run_left_is_taken_over(tmp_path, fork):
    _kill(fork(lambda: lock_folder(tmp_path)))
    lock_folder(tmp_path)
    assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_a_process_that_goes_on_may_let_others_have_its_folders(tmp_path, fork):
    lock_folder(tmp_path)
    unlock_folders()
    _kill(fork(lambda: lock_folder(tmp_path)))
    assert not (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
    lock_folder(tmp_path)


def test_a_run_may_lock_its_folder_again_and_other_folders(tmp_path, fork):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (tmp_path, other, tmp_path):
        lock_folder(folder)
    refused = []

    def try_both():
        folder_lock._HELD.clear()  # what the other process has not opened itself
        for folder in (tmp_path, other):
            with pytest.raises(UserError):
                lock_folder(folder)
            refused.append(folder)
        assert refused == [tmp_path, other]

    fork(try_both)


def test_children_of_a_run_that_was_killed_do_not_keep_its_lock(tmp_path, fork):
    """Data loaders' processes end some seconds after it."""
    ready, done = os.pipe()

    def lock_and_fork():
        lock_folder(tmp_path)
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.write(done, f"{pid}\n".encode())

    _kill(fork(lock_and_fork))
    with os.fdopen(ready) as pids:
        child = int(pids.readline())
    try:
        os.kill(child, 0)  # it lives
        lock_folder(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
    os.close(done)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_used(tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock.fcntl, "lockf", no_locks)
    lock_folder(tmp_path)
    lock_folder(tmp_path)
