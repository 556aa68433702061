"""Which weights made a result."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from detectron2.utils.file_io import PathManager

from ..files import file_sha256


def weights_sha256(weights: str) -> str:
    """SHA-256 of the weights that a config names, as 64 hex digits.

    Args:
        weights: a file; a folder as ``transformers`` saves it, of which all files count by their
            names and bytes; or an address that Detectron2's ``PathManager`` knows.

    Raises:
        OSError: there is nothing, or it cannot be read.
    """
    path = PathManager.get_local_path(weights)
    if not os.path.isdir(path):
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(Path(path).rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)} {file_sha256(str(file))}\n".encode())
    return digest.hexdigest()
