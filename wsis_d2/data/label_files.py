"""Label files of other tools: what each says of an image, before anything is looked up."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import UserError
from .catalog import require_file
from .image_files import IMAGE_EXTENSIONS

# ["dog", "traffic light"], as JSON and as Python's own spelling, which pandas writes into CSVs.
_QUOTED = r"""'[^']*'|"[^"]*\""""
_LIST = re.compile(rf"\[\s*((?:{_QUOTED})(?:\s*,\s*(?:{_QUOTED}))*)?\s*\]")

_MAX_STEPS = 64  # of an address: no path has more folders
# What Label Studio puts before the name of a file that was uploaded.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


def quoted_names(cell: str) -> list[str] | None:
    """The names in a cell such as ``["dog", "cat"]``; None where it is no such list."""
    if not _LIST.fullmatch(cell):
        return None
    return [quoted[1:-1] for quoted in re.findall(_QUOTED, cell)]


def read_jsonl_labels(path: str) -> Iterator[tuple[int, str, list[str]]]:
    """Read the ``metadata.jsonl`` of a Hugging Face ``imagefolder``: an object per line.

    Args:
        path: the file. Its objects have ``file_name``, and ``labels`` or ``label``: a name or a
            class number, or a list of these; null for none.

    Yields:
        The line's number, the file name and the class names, a number as its digits.

    Raises:
        UserError: the file is missing or not in UTF-8, or a line is not such an object.
    """
    require_file(path, "the label file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield (number, *_jsonl_line(line, f"line {number} of '{path}'"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not in UTF-8 ({error}): save it as UTF-8") from error


def _jsonl_line(line: str, where: str) -> tuple[str, list[str]]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): write one object per line") from error
    key = "labels" if isinstance(entry, dict) and "labels" in entry else "label"
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise UserError(f"{where} has no file_name: write {{'file_name': ..., 'label': ...}}")
    if key not in entry:
        raise UserError(
            f"{where} has neither label nor labels (it has {', '.join(map(repr, entry))}): add one"
        )
    labels = entry[key]
    names = labels if isinstance(labels, list) else [] if labels is None else [labels]
    if not all(isinstance(n, str | int) and not isinstance(n, bool) for n in names):
        raise UserError(f"{key} in {where} is no class name and no list of names: write one")
    return entry["file_name"], [str(name) for name in names]


def read_label_studio_choices(
    tasks: Sequence[Any], path: str
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Read what annotators chose in Label Studio, from its exports "JSON" and "JSON-MIN".

    Of several annotations of a task, those that were skipped do not count, and a choice counts
    that at least half of the others have.

    Args:
        tasks: content of the export.
        path: its file, for messages.

    Yields:
        The task's position from 1 on; where its image may lie in the image folder, the longest path
        first; the class names.

    Raises:
        UserError: a task is not in that format or has no image.
    """
    for number, task in enumerate(tasks, start=1):
        try:
            data = task.get("data", task)
            names = _task_choices(task)
            address = _image_address(data)
            files = _possible_files(address) if address else []
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"task {number} of '{path}' is not in Label Studio's format ({error}): export the "
                "project as JSON"
            ) from error
        if not files:
            raise UserError(
                f"task {number} of '{path}' has no address of an image: export a project of images"
            )
        yield number, files, names


def _task_choices(task: Mapping[str, Any]) -> list[str]:
    if "annotations" not in task:  # JSON-MIN: the choices under the name of their tag
        chosen = [v["choices"] for v in task.values() if isinstance(v, dict) and "choices" in v]
        chosen += [[task[key]] for key in ("choice", "choices") if isinstance(task.get(key), str)]
        return _names(choice for choices in chosen for choice in choices)
    votes: Counter[str] = Counter()
    annotations = [a for a in task["annotations"] if not a.get("was_cancelled")]
    for annotation in annotations:
        chosen = [r["value"]["choices"] for r in annotation["result"] if r["type"] == "choices"]
        votes.update(set(_names(choice for choices in chosen for choice in choices)))
    return [name for name, count in votes.items() if 2 * count >= len(annotations)]


def _names(choices: Iterator[Any]) -> list[str]:
    names = list(choices)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a choice is not a text")
    return names


def _image_address(data: Mapping[str, Any]) -> str:
    """What a task's data says under "image", else the first address of an image; "" without."""
    if isinstance(data.get("image"), str):
        return data["image"]
    texts = (value for value in data.values() if isinstance(value, str))
    return next((text for text in texts if text.lower().endswith(IMAGE_EXTENSIONS)), "")


def _possible_files(address: str) -> list[str]:
    """Ends of an address that may be the path of its file, the longest first.

    ``/data/local-files/?d=photos/beach/1.jpg`` is ``photos/beach/1.jpg``, ``beach/1.jpg`` or
    ``1.jpg``; an upload's name has a prefix that the photo may not have.
    """
    parts = urlsplit(address)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    steps = [step for step in path.replace("\\", "/").split("/") if step not in ("", ".", "..")]
    steps = steps[-_MAX_STEPS:]
    ends = ["/".join(steps[i:]) for i in range(len(steps))]
    if steps and _UPLOAD_PREFIX.match(steps[-1]):
        ends.append(_UPLOAD_PREFIX.sub("", steps[-1], count=1))
    return ends
