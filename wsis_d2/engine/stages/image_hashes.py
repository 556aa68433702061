"""SHA-256 of a recipe's images, kept so that images are not read again whenever it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tqdm import tqdm

from ...files import file_state, read_json, write_json
from ...images import unreadable_image

#: In a recipe's output folder: ``[size, time of change, SHA-256]`` by the image's path.
IMAGE_HASHES_FILE = "image_hashes.json"


class ImageHashes:
    """Tells images by their bytes: a dataset that was copied or checked out anew is the same.

    Args:
        file: JSON of known hashes, which may be absent; empty: none are known.
    """

    def __init__(self, file: str = ""):
        self.file = file
        self._states: dict[str, list] = read_json(file) if file else {}
        self._saved = dict(self._states)

    def of(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 of each image, 64 hex digits.

        Raises:
            UserError: an image is absent or cannot be read.
        """
        with ThreadPoolExecutor(max_workers=8) as pool:
            states = pool.map(self._state, paths)
            options = {"unit": "image", "delay": 2, "leave": False, "disable": None}
            shown = tqdm(states, "images, read once", total=len(paths), **options)
            self._states.update(zip(paths, shown))
        return [self._states[path][2] for path in paths]

    def _state(self, path: str) -> list:
        try:
            return file_state(path, self._states.get(path))
        except OSError as error:
            raise unreadable_image(path, error) from error

    def save(self) -> None:
        """Write the file where something new is known; where that fails it is read again later."""
        if self.file and self._states != self._saved:
            with suppress(OSError):
                write_json(self.file, self._states)
                self._saved = dict(self._states)
