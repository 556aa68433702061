"""The built-in generator's proposals, kept on disk: made in parallel, resumable.

A cache folder holds ``settings.json``, the generator's settings, and one ``<key>.json.gz`` per
image. The key is ``<image stem>-<first 16 hex digits of the SHA-256 of the image file>``: it
survives a move of the dataset, and an image that was replaced is not mistaken for the old one. With
contour maps from files those of the map's file follow: so contours of a new round are seen.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import claim_folder, write_bytes
from ..images import read_image
from ..parallel import for_each_image
from ..structures import MaskProposals
from .contour_proposals import contour_file, contours_from_file, photo_proposals
from .hed import file_digest, hed_contours
from .hierarchical import hierarchical_proposals

# Raised whenever the generator gives other proposals for the same settings.
_GENERATOR_VERSION = 1
# Of an entry, which is compressed. 2,000 masks of 24 megapixels have a few.
_MAX_BYTES = 2**26


class ProposalCache:
    """A folder of proposals made by the built-in generator with the same settings.

    Args:
        folder: made where it does not exist.
        settings: `contours` and what goes with them: without, or "none", keyword arguments of
            :func:`hierarchical_proposals`; "hed" and "files": of :func:`photo_proposals`.

    Raises:
        UserError: the folder holds proposals of other settings, or cannot be written.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = dict(settings)
        record = {"version": _GENERATOR_VERSION, **_recorded(settings)}
        entries = self.folder.glob("*.json.gz")
        claim_folder(self.folder, record, entries, replace=False, key="PROPOSALS.PATH")

    def path(self, file_name: str | Path) -> Path:
        """Where the proposals of this image are kept.

        Raises:
            UserError: the image, or its contour map, cannot be read.
        """
        key = image_key(file_name)
        if self.settings.get("contours") == "files":
            contours = contour_file(self.settings["contour_path"], file_name)
            advice = "make it (tools/make_contours.py), or correct PROPOSALS.BUILTIN.CONTOUR_PATH"
            key += f"-{_digest(contours, f'contour map {contours}', advice)}"
        return self.folder / f"{key}.json.gz"

    def get(self, file_name: str | Path) -> MaskProposals:
        """The image's proposals; made and kept where they are missing.

        Raises:
            UserError: the image, or its entry, cannot be read.
        """
        path = self.path(file_name)
        if not path.exists():
            proposals = _generate(file_name, **self.settings)
            content = json.dumps(proposals.to_json(), separators=(",", ":")).encode()
            # Without the time of day in its header, the same proposals are the same bytes.
            write_bytes(path, gzip.compress(content, mtime=0))
        try:
            record = _read_entry(path)
        except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run again") from error
        return MaskProposals.from_json(record, str(path))


def _read_entry(path: Path) -> Any:
    with gzip.open(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it holds more than {_MAX_BYTES >> 20} MiB")
    return json.loads(content)


def generate_proposals(
    file_names: Sequence[str | Path],
    cache_dir: str | Path,
    num_workers: int = 0,
    **settings: Any,
) -> None:
    """Fill the cache with the proposals of images; those that are there are skipped.

    Args:
        file_names: image files.
        cache_dir: see :class:`ProposalCache`.
        num_workers: processes; 0 works in this one.
        settings: see :class:`ProposalCache`.

    Raises:
        UserError: some images cannot be read; the others are done first. Or the folder cannot be
            used.
    """
    ProposalCache(cache_dir, settings)
    work = partial(_generate_one, str(cache_dir), settings)
    for_each_image(work, [str(name) for name in file_names], "proposals", num_workers)


def _generate_one(cache_dir: str, settings: dict, file_name: str) -> str:
    """Make one entry; returns what the user must know, "" where all went well."""
    try:
        cache = ProposalCache(cache_dir, settings)
        if not cache.path(file_name).exists():
            cache.get(file_name)
    except UserError as error:
        return str(error)
    return ""


def _generate(
    file_name: str | Path,
    contours: str = "none",
    hed_weights: str = "",
    contour_path: str = "",
    **settings: Any,
) -> MaskProposals:
    image = read_image(file_name)
    if contours == "none":
        return hierarchical_proposals(image, **settings)
    if contours == "hed":
        return photo_proposals(image, partial(hed_contours, weights=hed_weights), **settings)
    return photo_proposals(
        image, partial(contours_from_file, path=contour_file(contour_path, file_name)), **settings
    )


def _recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the cache knows them: weights by what they are, not by where they lie."""
    record = dict(settings)
    if record.get("contours") == "hed":
        record["hed_weights"] = file_digest(record["hed_weights"])
    if record.get("contours") == "files":
        del record["contour_path"]  # each entry's name tells the contour map's content
    return record


def image_key(file_name: str | Path) -> str:
    """The image's name in the cache; see the module's description."""
    digest = _digest(file_name, f"image {file_name}", "replace it or take it off the list")
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(file_name).stem)[:100]}-{digest}"


def _digest(path: str | Path, what: str, advice: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error}): {advice}") from error
