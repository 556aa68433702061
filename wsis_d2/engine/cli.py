"""What every command line of the plugin shares."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from ..errors import explain, full_disk, say_full_disks_once
from ..processes import EXIT_TERMINATED, Terminated, on_sigterm, raise_terminated

#: Exit codes: argparse's own 2 for bad arguments is used for everything that the user can mend.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def run_tool(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run a tool's ``main`` and turn what a user can mend into one sentence.

    Returns:
        The exit code: 0, 2 after a :class:`~wsis_d2.errors.UserError` or a full disk (printed to
        stderr as ``error: <sentence>``), 130 after Ctrl-C, 141 where the reader of our output has
        gone (``| head``), 143 after SIGTERM. Any other exception keeps its traceback: it is a bug,
        and the traceback is what a report needs.
    """
    say_full_disks_once()
    try:
        with on_sigterm(raise_terminated):
            main(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted: run the same command with --resume to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Terminated:
        print("terminated: run the same command with --resume to go on", file=sys.stderr)
        return EXIT_TERMINATED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_BROKEN_PIPE
        message = explain(error)
        if not message:
            raise
        if full_disk(error):
            _close_logs()
        print(f"error: {message}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    return 0


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that nobody reads any more; it is nowhere then."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    gone = select.POLLERR | select.POLLHUP
    poll = select.poll()
    poll.register(descriptor, gone)
    if not any(events & gone for _, events in poll.poll(0)):
        return False
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the rest of the process)
    return True


def _close_logs() -> None:
    """Close the logs that cannot be written: their end would be an error once more."""
    for logger in list(logging.Logger.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", []):
            try:
                handler.flush()
            except OSError:
                with suppress(OSError):
                    handler.stream.close()
            except ValueError:  # it is closed
                pass
