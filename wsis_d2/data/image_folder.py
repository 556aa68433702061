"""Folders of one file per image: CAMs, seeds, label maps. They know from what they were made."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..errors import UserError
from ..files import (
    check_writable_folder,
    claim_folder,
    file_state,
    folder_settings,
    label_file,
    read_json,
    write_json,
)

logger = logging.getLogger(__name__)

#: What each file was made from: [size, time of change, SHA-256] of the image and what else.
SOURCES_FILE = "sources.json"


class ImageFolder:
    """One file per image of a dataset, all made with the settings in the folder's settings.json.

    The folder's sources.json says what each one was made from: where an image was replaced, its
    file alone is made again.

    Args:
        folder: path of the folder.
        extension: of its files, with the dot.
        dataset_name: the registered dataset.
        key: the config key (or argument) that names the folder, for messages.
    """

    def __init__(self, folder: str, extension: str, dataset_name: str, key: str = ""):
        self.folder = folder
        self.extension = extension
        self.key = key
        self.image_root = MetadataCatalog.get(dataset_name).get("image_root", "")

    def path(self, dataset_dict: Mapping[str, Any]) -> str:
        """The image's file; see :func:`wsis_d2.files.label_file`."""
        return label_file(self.folder, dataset_dict["file_name"], self.image_root, self.extension)

    def missing(self, dataset: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The images that have no file yet.

        Raises:
            UserError: two images would share a file.
        """
        by_path: dict[str, str] = {}
        for d in dataset:
            other = by_path.setdefault(self.path(d), d["file_name"])
            if other != d["file_name"]:
                raise UserError(
                    f"images '{other}' and '{d['file_name']}' have the same name but for the "
                    "extension or folder: rename one"
                )
        return [d for d in dataset if not os.path.isfile(self.path(d))]

    def open(
        self,
        settings: Mapping[str, Any],
        sources: Mapping[str, Sequence[str]] | None = None,
        replace: bool = True,
    ) -> None:
        """Prepare the folder for files of these settings.

        Files whose sources have other bytes than those that they were made from are removed.

        Args:
            settings: what decides how the files come out.
            sources: the files that each file is made from, by its path; None: not looked at.
            replace: remove files of other settings, instead of refusing the folder.

        Raises:
            UserError: see :func:`wsis_d2.files.claim_folder`.
        """
        files = sorted(Path(self.folder).rglob(f"*{self.extension}"))
        claim_folder(self.folder, settings, files, replace=replace, key=self.key)
        check_writable_folder(self.folder, self.key)
        if sources is not None:
            self._remove_stale(sources)

    def _remove_stale(self, sources: Mapping[str, Sequence[str]]) -> None:
        path = os.path.join(self.folder, SOURCES_FILE)
        known = _read_sources(self.folder)
        names = {file: os.path.relpath(file, self.folder) for file in sources}

        def look(file: str) -> list[list]:
            old = known.get(names[file], [])
            return [_state(source, old[i : i + 1]) for i, source in enumerate(sources[file])]

        with ThreadPoolExecutor(max_workers=8) as pool:
            states = dict(zip(names.values(), pool.map(look, names)))
        stale = [
            file
            for file, name in names.items()
            if os.path.isfile(file) and _hashes(states[name]) != _hashes(known.get(name, []))
        ]
        for file in stale:
            os.unlink(file)
        if stale:
            logger.info(f"{len(stale)} files in {self.folder} are of other images: made again")
        # After the removal: what is there from now on was made from these.
        write_json(path, states)

    def fingerprint(self) -> str:
        """SHA-256 of the settings, "" where the folder does not say them."""
        settings = folder_settings(self.folder)
        return "" if settings is None else _sha256(settings)

    def content_fingerprint(self) -> str:
        """SHA-256 of the settings and of the bytes of all sources; "" as :meth:`fingerprint`."""
        sources = _read_sources(self.folder)
        hashes = {name: _hashes(states) for name, states in sources.items()}
        return self.fingerprint() and _sha256([folder_settings(self.folder), hashes])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_sources(folder: str) -> dict[str, list[list]]:
    """What :data:`SOURCES_FILE` says of each file, without what no :func:`_state` can be."""
    return {
        name: states
        for name, states in read_json(os.path.join(folder, SOURCES_FILE)).items()
        if isinstance(states, list)
        and all(isinstance(state, list) and len(state) == 3 for state in states)
    }


def _state(path: str, known: list[list]) -> list:
    """Its :func:`file_state`; ``known`` holds the last one, or nothing."""
    try:
        return file_state(path, *known)
    except OSError:  # whoever makes the file says so
        return [0, 0, ""]


def _hashes(states: list[list]) -> list[str]:
    return [sha256 for _, _, sha256 in states]


def image_list_digest(dataset: Sequence[Mapping[str, Any]], dataset_name: str) -> str:
    """SHA-256 of the images' names and labels, the same wherever the dataset lies."""
    root = MetadataCatalog.get(dataset_name).get("image_root") or os.curdir
    images = [(os.path.relpath(d["file_name"], root), d["image_labels"]) for d in dataset]
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()
