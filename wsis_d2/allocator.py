"""Memory that was freed is kept for the next large array instead of going back to the system.

By glibc's default every array above 32 MB is mapped anew and unmapped when it is freed, so that
each iteration of a training on a CPU faults in all its pages again: gigabytes of zeros. On a
virtual machine that was a third of a classifier's time (MODEL_ZOO.md, part 3).
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Take large arrays of this process from its heap, and never shrink that.

    For processes that compute on a CPU; to be called before large arrays are made. Their peak of
    memory grows by a part, as arrays of other sizes leave gaps, and they keep it until they end.
    Workers that are forked later inherit it.

    Returns:
        Whether it could be done: not without glibc, nor where the user has set ``MALLOC_*`` or
        ``GLIBC_TUNABLES`` in the environment, which is a choice to be kept.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
