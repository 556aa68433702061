"""The one exception that a user is meant to read."""

from __future__ import annotations

import errno
import logging
import re
import threading
from typing import Any

from fvcore.common.registry import Registry


class UserError(Exception):
    """Something that the user can mend: a missing file, a wrong class name, an empty label.

    The message is one clear sentence: what is wrong, where, and what to do. The tools print it
    without a traceback and exit with code 2.
    """


def one_sentence(error: UserError) -> str:
    """The message on one line, without the traceback that a data loader's worker puts before it."""
    message = str(error).rsplit(f"{UserError.__name__}: ", 1)[-1]
    return " ".join(line.strip() for line in message.splitlines()).strip()


#: Writing fails by these where a disk is full, or what a user may fill of it.
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


#: What PyTorch raises where a process of a data loader has ended, whoever ended it.
_DEAD_LOADER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")


def explain(error: BaseException) -> str:
    """The sentence for what a user can mend, else "".

    That is a :class:`UserError`, a full disk, or a killed process of a data loader.
    """
    if isinstance(error, UserError):
        return one_sentence(error)
    if isinstance(error, RuntimeError) and _DEAD_LOADER.match(str(error)):
        what = str(error).strip(" .")
        return (
            f"a process that loads images has ended ({what}): often there was too little memory; "
            "set DATALOADER.NUM_WORKERS lower and run the same command with --resume"
        )
    cause = full_disk(error)
    if cause is None:
        return ""
    what = f"'{cause.filename}'" if cause.filename else "a file"
    return (
        f"{what} cannot be written ({cause.strerror}): make room on the disk, then run the same "
        "command with --resume"
    )


def full_disk(error: BaseException) -> OSError | None:
    """What :func:`os_error` finds, where it is that of a full disk."""
    cause = os_error(error)
    return cause if cause is not None and cause.errno in _FULL_DISK else None


def say_full_disks_once() -> None:
    """Keep a full disk from being a traceback per line of the log and per thread that writes, too.

    For a process whose exceptions are shown as :func:`explain` has them.
    """
    logging.raiseExceptions = False
    threading.excepthook = _show_unless_explained


def _show_unless_explained(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or not explain(args.exc_value):
        threading.__excepthook__(args)


def os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error that an exception is, or was raised after.

    Libraries such as torch's writer of checkpoints raise one of their own while they handle it.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def look_up(registry: Registry, name: str, key: str) -> Any:
    """The entry ``name`` of a registry, which the config key ``key`` asks for.

    Raises:
        UserError: there is none of that name.
    """
    known = sorted(entry for entry, _ in registry)
    if name not in known:
        raise UserError(f"{key} is {name!r}: choose one of {', '.join(known)}")
    return registry.get(name)
