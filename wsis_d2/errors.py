"""The one exception that a user is meant to read."""

from __future__ import annotations

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


def look_up(registry: Registry, name: str, key: str) -> Any:
    """The entry ``name`` of a registry, which the config key ``key`` asks for.

    Raises:
        UserError: there is none of that name.
    """
    known = sorted(entry for entry, _ in registry)
    if name not in known:
        raise UserError(f"{key} is {name!r}: choose one of {', '.join(known)}")
    return registry.get(name)
