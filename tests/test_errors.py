"""What people are told of an exception."""

import errno
import logging
import os
import signal
import threading

import pytest
import torch

from wsis_d2.errors import UserError, explain, os_error, say_full_disks_once

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _raised(error, cause=None, context=None):
    """An exception as it is when it was raised from, or while another was handled."""
    error.__cause__, error.__context__ = cause, context
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("no\n  images"), "no images"),
        (FULL, "a file cannot be written (No space left on device): make room"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "log.txt"),
            "'log.txt' cannot be written (Disk quota exceeded): make room",
        ),
        # As torch's writer of checkpoints does it.
        (_raised(RuntimeError("unexpected pos"), context=FULL), "a file cannot be written (No "),
        (_raised(ValueError(), cause=_raised(KeyError(), context=FULL)), "a file cannot be"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error, expected):
    assert explain(error).startswith(expected)


class _Deadly(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, _):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_of_a_loader_is_a_sentence():
    with pytest.raises(RuntimeError) as error:
        next(iter(torch.utils.data.DataLoader(_Deadly(), num_workers=1)))
    message = explain(error.value)
    assert message.startswith("a process that loads images has ended (DataLoader worker (pid")
    assert "set DATALOADER.NUM_WORKERS lower and run the same command with --resume" in message


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), OSError(errno.EBADF, "Bad file descriptor"), KeyboardInterrupt()]
)
def test_the_rest_is_not_explained(error):
    assert explain(error) == ""


def test_the_operating_systems_error_in_a_chain():
    assert os_error(FULL) is FULL
    assert os_error(_raised(ValueError(), cause=FULL)) is FULL
    assert os_error(ValueError()) is None


@pytest.fixture
def said_once(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    say_full_disks_once()


def test_a_full_disk_is_no_traceback_of_the_log(said_once, capsys):
    class Full:
        def write(self, text):
            raise FULL

    record = logging.makeLogRecord({"msg": "iteration 20"})
    logging.StreamHandler(Full()).emit(record)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_traceback_of_a_thread_and_a_bug_is(said_once, capsys):
    def raise_(error):
        raise error

    for error in (FULL, ValueError("a bug")):
        thread = threading.Thread(target=raise_, args=(error,))
        thread.start()
        thread.join()
    stderr = capsys.readouterr().err
    assert "ValueError: a bug" in stderr
    assert "No space left" not in stderr
