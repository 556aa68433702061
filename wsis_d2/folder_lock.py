"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is checked there
    fcntl = None

#: In the folder; says who has it: ``process 1234 on host``.
LOCK_FILE = "run.lock"

#: A lock is its process's, so one that locks a folder twice (stage after stage, say) has it; and it
#: is gone with the first file descriptor of it that the process closes, so that all are kept.
_HELD: dict[tuple[int, int], int] = {}


def lock_folder(folder: str | os.PathLike) -> None:
    """Keep all other processes that call this from a folder, until this one ends, however it does.

    The processes that it starts do not have the lock. On a file system that several machines share,
    it holds among them; on one without locks nothing is checked.

    Args:
        folder: the folder; it exists and can be written.

    Raises:
        UserError: another process has it.
    """
    if fcntl is None:
        return
    path = os.path.join(folder, LOCK_FILE)
    with suppress(FileNotFoundError):
        if _identity(os.stat(path)) in _HELD:
            return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Not flock(): data loaders inherit its locks, and live some seconds longer.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.read(handle, 1000).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise UserError(
                f"'{folder}' is in use by {holder}: wait for it, end it, or choose another output "
                "folder"
            ) from error
        os.close(handle)
        return
    _HELD[_identity(os.fstat(handle))] = handle
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def unlock_folders() -> None:
    """Let other processes have all folders that :func:`lock_folder` has kept for this one, which
    goes on with other work."""
    while _HELD:
        os.close(_HELD.popitem()[1])
