"""What every command line of the plugin shares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from ..errors import explain, say_full_disks_once
from ..processes import EXIT_TERMINATED, Terminated, on_sigterm, raise_terminated

#: Exit codes: argparse's own 2 for bad arguments is used for everything that the user can mend.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_tool(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run a tool's ``main`` and turn what a user can mend into one sentence.

    Returns:
        The exit code: 0, 2 after a :class:`~wsis_d2.errors.UserError` or a full disk (printed to
        stderr as ``error: <sentence>``), 130 after Ctrl-C, 143 after SIGTERM. Any other exception
        keeps its traceback: it is a bug, and the traceback is what a report needs.
    """
    say_full_disks_once()
    try:
        with on_sigterm(raise_terminated):
            main(args)
    except KeyboardInterrupt:
        print("interrupted: run the same command with --resume to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Terminated:
        print("terminated: run the same command with --resume to go on", file=sys.stderr)
        return EXIT_TERMINATED
    except Exception as error:
        message = explain(error)
        if not message:
            raise
        print(f"error: {message}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    return 0
