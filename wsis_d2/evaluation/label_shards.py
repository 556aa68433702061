"""Files of shards: the pseudo labels of parts of a dataset, and their way into one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..errors import UserError
from ..files import open_atomically, to_json
from ..parallel import Shard, deal_images
from .label_records import read_record


def shard_file(output_file: str, shard: Shard) -> str:
    """Path of a shard's labels: ``labels.json`` has ``labels.shard-0-of-4.jsonl``."""
    return f"{os.path.splitext(output_file)[0]}.{shard.name}.jsonl"


def shard_header(shard: Shard, info: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What a shard's file says of itself, as it is read: which part it is, and of which labels."""
    header = {"shard": [shard.index, shard.count], "info": info, "fingerprint": fingerprint}
    return json.loads(to_json(header))


def read_shard_header(path: str) -> dict[str, Any]:
    """The header of a shard's file, {} where there is none."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def write_shard(
    path: str,
    header: Mapping[str, Any],
    image_ids: Sequence[Hashable],
    annotations_of: Callable[[Hashable], list[dict[str, Any]]],
) -> None:
    """Write a shard's file: its header, then a line ``[image_id, annotations]`` per image.

    Args:
        path: the file, written atomically.
        header: see :func:`shard_header`.
        image_ids: of the shard's images, ascending.
        annotations_of: see :meth:`PseudoLabelFile.write`.
    """
    with open_atomically(path) as file:
        for value in (header, *([i, annotations_of(i)] for i in image_ids)):
            file.write(to_json(value).encode() + b"\n")


class LabelShards:
    """The labels in the files of all shards; a context manager, which closes them.

    Args:
        output_file: the file that they will become.
        num_shards: how many there are.
        info: how the labels must have been made.
        fingerprint: likewise, with the images.
        dataset: the dicts of all images.

    Raises:
        UserError: shards are missing, or one is another than its name says or of other labels.
    """

    def __init__(
        self,
        output_file: str,
        num_shards: int,
        info: Mapping[str, Any],
        fingerprint: str,
        dataset: Sequence[Mapping[str, Any]],
    ):
        shards = [Shard(i, num_shards) for i in range(num_shards)]
        paths = [shard_file(output_file, shard) for shard in shards]
        missing = [str(s) for s, path in zip(shards, paths) if not os.path.isfile(path)]
        if missing:
            more = ", ..." if len(missing) > 10 else ""
            raise UserError(
                f"{len(missing)} of {num_shards} shards of '{output_file}' are missing: run the "
                f"same command with --shard {', '.join(missing[:10])}{more}"
            )
        for shard, path in zip(shards, paths):
            _check_header(path, shard_header(shard, info, fingerprint))
        shares = deal_images(dataset, num_shards)
        self._unread = [len(share) for share in shares]
        self._shard_of = {d["image_id"]: i for i, share in enumerate(shares) for d in share}
        self._paths = paths
        with ExitStack() as opened:
            self._files = [opened.enter_context(open(path, "rb")) for path in paths]
            for file in self._files:
                file.readline()
            self._opened = opened.pop_all()

    def __enter__(self) -> LabelShards:
        return self

    def __exit__(self, *_) -> None:
        self._opened.close()

    def annotations(self, image_id: Hashable) -> list[dict[str, Any]]:
        """The labels of an image; to be called for each, in the order of the ids.

        Raises:
            UserError: the next line of its shard's file is of another image, or damaged.
        """
        index = self._shard_of[image_id]
        try:
            found, annotations = read_record(self._files[index].readline())
        except ValueError:
            found, annotations = None, []
        if found != image_id:
            raise self._damaged(index, f"image {image_id!r} is not where it belongs")
        self._unread[index] -= 1
        if not self._unread[index] and self._files[index].readline():
            raise self._damaged(index, "it holds more images than its own")
        return annotations

    def _damaged(self, index: int, why: str) -> UserError:
        return UserError(
            f"'{self._paths[index]}' is damaged ({why}): delete it and make it again with --shard "
            f"{index}/{len(self._paths)}"
        )


def _check_header(path: str, expected: Mapping[str, Any]) -> None:
    found = read_shard_header(path)
    if found == expected:
        return
    shard = "/".join(map(str, expected["shard"]))
    if not isinstance(found.get("shard"), list) or not isinstance(found.get("info"), dict):
        what = "is no file of a shard"
    elif found["shard"] != expected["shard"]:
        what = f"holds shard {'/'.join(map(str, found['shard']))} in spite of its name"
    else:
        keys = sorted({*found["info"], *expected["info"]})
        differ = [k for k in keys if found["info"].get(k) != expected["info"].get(k)]
        what = f"was made with other {', '.join(differ) or 'images or image labels'}"
    raise UserError(
        f"'{path}' {what}: make it again with --shard {shard}, or merge with the command line that "
        "it was made with"
    )
