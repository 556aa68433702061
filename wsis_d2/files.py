"""Writing files so that a kill never leaves half of one, and a failure is one clear sentence."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import yaml

from .errors import UserError

# In a recipe or config; none of ours has 500.
_MAX_YAML_VALUES = 100_000
_MAX_YAML_DEPTH = 50


@contextmanager
def open_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write ``path`` with: when the block ends well, it is there whole, else as it
    was before. Its folder is made.

    Raises:
        UserError: the file cannot be written.
    """
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        # mkstemp makes files private; give them what open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise UserError(
                f"'{path}' cannot be written: {error.strerror}; choose another output"
            ) from error
        raise


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[str]:
    """A folder to fill in the place of ``path``: when the block ends well, ``path`` is there whole,
    else as it was before.

    Raises:
        UserError: ``path`` is a file or a folder that is not empty, or something in it cannot be
            written.
    """
    path = os.path.abspath(path)
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UserError(f"'{path}' is there already: name a new folder, or remove that one")
    parent, name = os.path.split(path)
    check_writable_folder(parent)
    temporary = tempfile.mkdtemp(dir=parent, prefix=f".{name}.")
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)  # mkdtemp makes folders private
        os.replace(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(
                f"folder '{path}' cannot be written: {error.strerror}; choose another output"
            ) from error
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file atomically; see :func:`open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Write JSON; see :func:`write_bytes` and :func:`to_json`."""
    write_text(path, to_json(value, indent) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON of what :func:`to_json_value` takes."""
    return json.dumps(to_json_value(value), indent=indent, allow_nan=False)


def json_list(items: Iterable[Any]) -> Iterator[str]:
    """The pieces of the JSON of a list that need not be in memory; see :func:`to_json`."""
    separator = "["
    for item in items:
        yield separator + to_json(item)
        separator = ", "
    yield "[]" if separator == "[" else "]"


def load_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file that anybody may have written.

    Raises:
        UserError: there is no such file, it cannot be read, or it is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}': check the path") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise UserError(f"'{path}' is not a JSON file: {error}") from None


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file; {} where it is missing, damaged or something else."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class _YamlLoader(yaml.SafeLoader):
    """Refuses what takes PyYAML minutes: nesting without end, and mappings that merge keys (``<<``)
    fill with the same pairs over and over."""

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        super().fetch_flow_collection_start(TokenClass)
        if self.flow_level > _MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_YAML_DEPTH} deep")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_YAML_VALUES:
            raise ValueError(f"a mapping has more than {_MAX_YAML_VALUES} keys")


def parse_yaml(text: str) -> Any:
    """The content of a YAML text that anybody may have written.

    Raises:
        ValueError: it is not YAML, or aliases make it of more than 100,000 values: a few lines of
            aliases of aliases are billions for whoever prints or copies them.
    """
    try:
        content = yaml.load(text, Loader=_YamlLoader)
        count = _count_values(content, {})
    except Exception as error:  # PyYAML raises nearly anything for a date that is none
        raise ValueError(str(error)) from error
    if count > _MAX_YAML_VALUES:
        raise ValueError(f"its aliases make it of more than {_MAX_YAML_VALUES} values")
    return content


def flat_keys(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``SECTION.KEY`` and value of all that nested mappings hold; no empty mappings."""
    if not isinstance(node, Mapping):
        yield key, node
        return
    for name, value in node.items():
        yield from flat_keys(value, f"{key}.{name}" if key else str(name))


def _count_values(value: Any, known: dict[int, int]) -> int:
    """Values in lists and mappings, those that stand there by aliases as often as they do.

    Args:
        value: may hold itself, which ends in a RecursionError.
        known: the counts of the lists and mappings that were seen, by their ids.
    """
    if not isinstance(value, list | tuple | dict):
        return 1
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(item, known) for item in inner)
    return known[id(value)]


def to_json_value(value: Any) -> Any:
    """A copy that is valid JSON: None for nan and infinity, text for keys, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_writable(path: str | os.PathLike) -> None:
    """Make sure, before any work, that the file ``path`` can be written; makes its folder.

    Raises:
        UserError: it cannot.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise UserError(f"'{path}' is a folder: give the name of a file to write")
    check_writable_folder(os.path.dirname(path))


def check_writable_folder(folder: str | os.PathLike, key: str = "folder") -> None:
    """Make sure, before any work, that files can be written to ``folder``; makes it.

    Args:
        folder: the folder.
        key: what names it, for the message.

    Raises:
        UserError: they cannot.
    """
    folder = os.path.abspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"output folder '{folder}' is not writable ({error.strerror}): choose another {key}"
        ) from error


def folder_size(folder: str | os.PathLike) -> int:
    """Bytes of all files below a folder; 0 where it does not exist."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a link to nothing
                size += os.path.getsize(os.path.join(root, name))
    return size


def free_space(path: str | os.PathLike) -> int:
    """Bytes that may still be written below ``path``, which need not exist."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def file_sha256(path: str) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def file_state(path: str, known: Any = None) -> list:
    """What a file holds: ``[size, time of change in ns, SHA-256]``.

    Args:
        path: the file.
        known: an earlier state; its SHA-256 is taken where size and time are still the same, so
            that the file is not read. Anything else counts as none.

    Raises:
        OSError: the file cannot be read.
    """
    status = os.stat(path)
    now = [status.st_size, status.st_mtime_ns]
    if isinstance(known, list) and len(known) == 3 and known[:2] == now:
        return known
    return [*now, file_sha256(path)]


#: In a folder of one file per image: how its files are made.
SETTINGS_FILE = "settings.json"


def folder_settings(folder: str | os.PathLike) -> Any:
    """What the files in a folder were made with, as :func:`claim_folder` wrote it; None where the
    folder does not say it."""
    return read_json(os.path.join(folder, SETTINGS_FILE)) or None


def claim_folder(
    folder: str | os.PathLike,
    settings: Mapping[str, Any],
    files: Iterable[str | os.PathLike],
    *,
    replace: bool,
    key: str,
) -> None:
    """Make a folder one whose files are made with these settings; it says so in a file of its own.

    Args:
        folder: the folder; it is made.
        settings: what decides how the files come out.
        files: the files in question, those that are there.
        replace: remove files that were made with other settings, instead of refusing the folder.
        key: the config key (or argument) that names the folder, for messages.

    Raises:
        UserError: the folder cannot be written, holds such files but does not say how they were
            made, or, without ``replace``, holds files of other settings.
    """
    settings = to_json_value(settings)
    # A complete folder may be read-only.
    if folder_settings(folder) == settings:
        return
    check_writable_folder(folder, key)
    # In this order: another process writes its settings before its first file.
    files = list(files)
    found = folder_settings(folder)
    if found == settings:
        return
    if files and found is None:
        raise UserError(
            f"'{folder}' holds files such as '{os.path.basename(files[0])}' but no readable "
            f"{SETTINGS_FILE}, so they are not ours and are left alone: choose another {key}"
        )
    if files and not replace:
        raise UserError(
            f"'{folder}' holds files of other settings (see its {SETTINGS_FILE}): choose another "
            f"{key}, or delete that folder"
        )
    for file in files:
        os.unlink(file)
    write_json(os.path.join(folder, SETTINGS_FILE), settings, indent=2)


def label_file(folder: str, file_name: str, image_root: str, extension: str) -> str:
    """Path of an image's own file (its CAMs, seeds, label map) in a folder of such files.

    It is named like the image relative to ``image_root``, with another extension:
    ``<image_root>/dogs/1.jpg`` has ``<folder>/dogs/1<extension>``. An image outside of
    ``image_root`` has its base name.
    """
    name = os.path.relpath(file_name, image_root or os.curdir)
    if name.startswith(os.pardir):
        name = os.path.basename(file_name)
    return os.path.join(folder, os.path.splitext(name)[0] + extension)
