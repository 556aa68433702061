"""What the classes of a dataset are called when somebody is asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from ..files import load_json, parse_yaml

KEY = "PSEUDO_LABELS.TEXT_BOXES.SYNONYMS"

#: An entry of the table that ends so is a file.
FILES = (".json", ".yaml", ".yml")


def class_texts(classes: Sequence[str], synonyms: Iterable[str] = ()) -> list[list[str]]:
    """The texts that stand for each class: its name, and its synonyms.

    Args:
        classes: names of the dataset's classes; ``_`` stands for a space.
        synonyms: each "class: synonym, synonym", or a JSON or YAML file of such a mapping, whose
            values may be lists too.

    Returns:
        A list of texts per class, its name first, none twice.

    Raises:
        UserError: a class that the dataset does not have, a text for two classes, or an entry or
            file of another form.
    """
    texts = [[_clean(name) or name] for name in classes]
    index = {name: i for i, name in enumerate(classes)}
    for name, words in _entries(synonyms):
        if name not in index:
            raise UserError(
                f"{KEY} names '{name}', which is no class of the dataset: choose one of "
                f"{', '.join(classes)}"
            )
        texts[index[name]] += map(_clean, words)
    texts = [list(dict.fromkeys(filter(None, of_class))) for of_class in texts]
    owner: dict[str, str] = {}
    for name, of_class in zip(classes, texts):
        for text in of_class:
            if owner.setdefault(text.lower(), name) != name:
                raise UserError(
                    f"'{text}' stands for '{owner[text.lower()]}' and for '{name}', which nobody "
                    f"could tell apart: correct {KEY}"
                )
    return texts


def synonym_files(synonyms: Iterable[str]) -> list[str]:
    """Those entries of the table that are files."""
    return [entry for entry in synonyms if entry.endswith(FILES)]


def _clean(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _entries(synonyms: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for entry in synonyms:
        if entry.endswith(FILES):
            yield from _read_file(entry)
            continue
        name, colon, words = entry.partition(":")
        if not colon:
            raise UserError(
                f"{KEY} has {entry!r}: write 'class: synonym, synonym', or name a file that ends "
                f"with {', '.join(FILES)}"
            )
        yield name.strip(), words.split(",")


def _read_file(path: str) -> Iterator[tuple[str, list[str]]]:
    if path.endswith(".json"):
        content = load_json(path)
    else:
        try:
            content = parse_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{KEY} names '{path}', which cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' in {KEY} is no mapping of classes to synonyms: correct it")
    for name, words in content.items():
        words = words.split(",") if isinstance(words, str) else words
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"the synonyms of '{name}' in '{path}' are {words!r}: write texts, as a list or "
                "with commas between them"
            )
        yield str(name), words
