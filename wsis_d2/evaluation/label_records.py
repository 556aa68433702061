"""The labels of finished images on disk, one line each, while the others are still being made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

from detectron2.utils import comm

from ..errors import UserError
from ..files import check_writable, open_atomically


class LabelRecords:
    """The labels of finished images: each process appends its own to a file in a folder.

    A line is JSON, ``[image_id, annotations]``. So memory does not hold the labels of all images,
    and a run that was killed goes on from the files, in any number of processes.

    All processes make it together, on a file system that they share.

    Args:
        folder: of the files; made where it does not exist.
        fingerprint: tells runs apart that would give other labels; only files of the same
            fingerprint are taken up.
        resume: take up what earlier runs left; otherwise begin afresh.
        stale: images whose earlier labels are not taken up.

    Attributes:
        resumed: ids of the images whose labels were taken up, the same in all processes.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str,
        fingerprint: str = "",
        resume: bool = False,
        stale: Collection[Hashable] = (),
    ):
        self._folder = folder
        self._prefix = f"labels-{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}-"
        self._resumed_file = os.path.join(folder, f"{self._prefix}resumed.jsonl")
        self._own_file = os.path.join(folder, f"{self._prefix}{comm.get_rank()}.jsonl")
        check_writable(self._own_file)
        resumed = set()
        if comm.is_main_process():
            resumed = self._take_up(stale) if resume else self._begin_afresh()
        comm.synchronize()  # from here on the files are those of this run's processes
        self.resumed: set[Hashable] = set().union(*comm.all_gather(resumed))
        self._file: BinaryIO | None = None

    def _files(self, prefix: str) -> list[str]:
        names = sorted(os.listdir(self._folder))
        return [
            os.path.join(self._folder, name)
            for name in names
            if name.startswith(prefix) and name.endswith(".jsonl")
        ]

    def _begin_afresh(self) -> set[Hashable]:
        for path in self._files(self._prefix):
            os.unlink(path)
        return set()

    def _take_up(self, stale: Collection[Hashable]) -> set[Hashable]:
        """Bring all complete lines into one file; returns the images' ids."""
        left_out, found = set(stale), set()
        # The first one may hold what another one, that a kill kept from its removal, holds too.
        paths = sorted(self._files(self._prefix), key=lambda path: path != self._resumed_file)
        with open_atomically(self._resumed_file) as kept:
            for path in paths:
                with open(path, "rb") as file:
                    for image_id, line in _complete_lines(file):
                        if image_id not in found and image_id not in left_out:
                            found.add(image_id)
                            kept.write(line)
        for path in paths:
            if path != self._resumed_file:
                os.unlink(path)
        return found

    def clear(self) -> None:
        """Forget what this process has appended."""
        self.close()
        check_writable(self._own_file)
        self._file = open(self._own_file, "wb")  # noqa: SIM115

    def append(self, image_id: Hashable, annotations: list[dict[str, Any]]) -> None:
        """Add an image: once the call returns, a kill does not lose it."""
        if self._file is None:
            self.clear()
        self._file.write(json.dumps([image_id, annotations]).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def collect(self) -> RecordReader | None:
        """What all processes have appended, and what was taken up; all must call it together.

        Returns:
            A reader; None in other processes than the main one.

        Raises:
            UserError: the files of some process are not in the folder as the main one sees it.
        """
        self.close()
        gathered = comm.gather(self._own_size(), dst=0)
        if not comm.is_main_process():
            return None
        sizes = dict(pair for pair in gathered if pair is not None)
        for path, size in sizes.items():
            if not os.path.isfile(path) or os.path.getsize(path) != size:
                raise UserError(
                    f"'{path}', written by another process, is not there: all machines must share "
                    "the file system of the output"
                )
        resumed = [self._resumed_file] if os.path.isfile(self._resumed_file) else []
        return RecordReader([*resumed, *sizes])

    def _own_size(self) -> tuple[str, int] | None:
        if not os.path.isfile(self._own_file):
            return None
        return self._own_file, os.path.getsize(self._own_file)

    def remove(self) -> None:
        """Remove the files, those of other runs too, and the folder if nothing else is in it."""
        for path in self._files("labels-"):
            os.unlink(path)
        if not os.listdir(self._folder):
            os.rmdir(self._folder)


class RecordReader:
    """Finds the labels of an image in files of such lines; a context manager, which closes them.

    Args:
        paths: the files; of an image that several have, the last one counts.
    """

    def __init__(self, paths: Sequence[str]):
        self._places: dict[Hashable, tuple[BinaryIO, int]] = {}
        with ExitStack() as opened:
            for path in paths:
                file = opened.enter_context(open(path, "rb"))
                offset = 0
                for image_id, line in _complete_lines(file):
                    self._places[image_id] = (file, offset)
                    offset += len(line)
            self._opened = opened.pop_all()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_) -> None:
        self._opened.close()

    def __contains__(self, image_id: Hashable) -> bool:
        return image_id in self._places

    def annotations(self, image_id: Hashable) -> list[dict[str, Any]]:
        """The labels of an image, none where it is not there."""
        if image_id not in self._places:
            return []
        file, offset = self._places[image_id]
        file.seek(offset)
        return json.loads(file.readline())[1]


def read_record(line: bytes) -> tuple[Hashable, list[dict[str, Any]]]:
    """Image id and annotations of a line that may be damaged.

    Raises:
        ValueError: it is none of an image and its annotations.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested without end") from None
    if not isinstance(record, list) or len(record) != 2:
        raise ValueError("it is no pair")
    image_id, annotations = record
    if not isinstance(image_id, int | str) or not isinstance(annotations, list):
        raise ValueError("it is no image and its annotations")
    if not all(isinstance(a, dict) and "iscrowd" in a for a in annotations):
        raise ValueError("it holds something that is no annotation")
    return image_id, annotations


def _complete_lines(file: BinaryIO) -> Iterator[tuple[Hashable, bytes]]:
    """Image id and text of each complete line.

    A line is complete when it ends with a line break and is a record; nothing after the first one
    that is not is trusted.
    """
    for line in file:
        try:
            image_id, _ = read_record(line)
        except ValueError:
            return
        if not line.endswith(b"\n"):
            return
        yield image_id, line
