"""What every command line of the plugin shares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from ..errors import UserError, one_sentence

#: Exit codes: argparse's own 2 for bad arguments is used for everything that the user can mend.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_tool(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run a tool's ``main`` and turn what a user can mend into one sentence.

    Returns:
        The exit code: 0, 2 after a :class:`~wsis_d2.errors.UserError` (printed to stderr as
        ``error: <sentence>``), 130 after Ctrl-C. Any other exception keeps its traceback: it is a
        bug, and the traceback is what a report needs.
    """
    try:
        main(args)
    except UserError as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted: run the same command with --resume to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
