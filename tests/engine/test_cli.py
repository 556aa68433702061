"""How a tool ends: its exit code, and what it says."""

import io
import logging
import os
import signal
import time
from contextlib import suppress

import pytest

from wsis_d2.engine import run_tool
from wsis_d2.errors import UserError


def _end_with(error):
    def main(args):
        assert args == "args"
        if error is not None:
            raise error

    return main


@pytest.mark.parametrize("buffering", [-1, 0])  # 0: of PYTHONUNBUFFERED
def test_output_that_nobody_reads_is_no_error(buffering, monkeypatch, capsys):
    readable, writable = os.pipe()
    os.close(readable)
    code = None
    # The buffer is still full when the pipe is closed.
    with suppress(BrokenPipeError), open(writable, "wb", buffering) as raw:
        pipe = io.TextIOWrapper(raw, write_through=not buffering)
        monkeypatch.setattr("sys.stdout", pipe)
        code = run_tool(lambda args: print("one of many lines"), "args")
        monkeypatch.undo()
    assert code == 141
    assert capsys.readouterr().err == ""


def _send_sigterm(args):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        (_end_with(None), 0, ""),
        (_end_with(UserError("there are\n no images")), 2, "error: there are no images\n"),
        (_end_with(KeyboardInterrupt()), 130, "interrupted: run the same command with --resume"),
        (_send_sigterm, 143, "terminated: run the same command with --resume"),
    ],
)
def test_exit_codes(main, code, said, capsys):
    assert run_tool(main, "args") == code
    assert capsys.readouterr().err.startswith(said)


def test_another_broken_pipe_is_raised(capsys):  # whose standard output is no file
    with pytest.raises(BrokenPipeError):
        run_tool(_end_with(BrokenPipeError()), "args")


def test_a_bug_is_raised():
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda args: 1 / 0, "args")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence_and_logs_are_closed(capsys):
    logger = logging.getLogger("wsis_d2.test_full_disk")
    handler = logging.StreamHandler(open("/dev/full", "w"))  # noqa: SIM115
    logger.addHandler(handler)

    def train(args):
        logger.warning("iteration 20")  # stays in the file's buffer
        with open("/dev/full", "w") as metrics:
            metrics.write("{}")

    assert run_tool(train, "args") == 2
    logger.removeHandler(handler)
    assert handler.stream.closed
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written (No space left on device): make room on the disk" in line
