"""Folders of one file per image: CAMs, seeds. They know how they were made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..errors import UserError
from ..files import check_writable_folder, label_file, to_json_value, write_json

SETTINGS_FILE = "settings.json"


class LabelFolder:
    """One file per image of a dataset, all made with the settings in the folder's settings.json.

    Args:
        folder: Path of the folder.
        extension: Of its files, with the dot.
        dataset_name: The registered dataset.
        key: The config key that names the folder, for messages.
    """

    def __init__(self, folder: str, extension: str, dataset_name: str, key: str):
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
            UserError: Two images would share a file.
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

    def open(self, settings: Mapping[str, Any], resume: bool = False) -> None:
        """Prepare the folder for files of these settings; those of other settings are removed.

        Args:
            settings: What decides how the files come out.
            resume: Refuse to remove files of other settings.

        Raises:
            UserError: The folder cannot be written, holds files that are not ours or, with
                ``resume``, files of other settings.
        """
        settings = to_json_value(settings)
        check_writable_folder(self.folder)
        path = os.path.join(self.folder, SETTINGS_FILE)
        found = self.settings()
        if found == settings:
            return
        files = sorted(Path(self.folder).rglob(f"*{self.extension}"))
        if files and found is None:
            raise UserError(
                f"'{self.folder}' holds {self.extension} files but no {SETTINGS_FILE}, so they are "
                f"not ours and are left alone: choose another {self.key}"
            )
        if files and resume:
            raise UserError(
                f"'{self.folder}' holds files of other settings (see its {SETTINGS_FILE}): leave "
                f"--resume out to replace them, or choose another {self.key}"
            )
        for file in files:
            file.unlink()
        write_json(path, settings, indent=2)

    def settings(self) -> dict[str, Any] | None:
        """What the files were made with; None where the folder does not say it."""
        try:
            with open(os.path.join(self.folder, SETTINGS_FILE), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def fingerprint(self) -> str:
        """SHA-256 of the settings, "" where the folder does not say them."""
        settings = self.settings()
        if settings is None:
            return ""
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def image_list_digest(dataset: Sequence[Mapping[str, Any]], dataset_name: str) -> str:
    """SHA-256 of the images' names and labels, the same wherever the dataset lies."""
    root = MetadataCatalog.get(dataset_name).get("image_root") or os.curdir
    images = [(os.path.relpath(d["file_name"], root), d["image_labels"]) for d in dataset]
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()
