"""Proposals that other programs wrote: MCG and COB, COCO results, segment-anything.

A reader has one method, ``read(file_name, image_id, size)``, which returns the
:class:`MaskProposals` of one image. Masks of another size than the image's are resized to it by
nearest neighbour.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import load_json
from ..structures import MaskProposals, encode_mask, to_rle
from ..structures.masks import RLE, checked_size
from .mat_files import read_mat

# Keys under which the .mat files in circulation keep their masks.
_MASK_KEYS = ("masks", "maskmat")
_MAT_KEYS = (*_MASK_KEYS, "superpixels", "labels", "scores")
# Pixels of all masks of a file together: half a minute's work, 80,000 masks of 500 x 400 pixels.
_MAX_PIXELS_OF_MASKS = 2**34


class MatProposals:
    """A folder with one MATLAB file ``<image stem>.mat`` per image, as MCG and COB write them.

    Images of sub-folders may have files in sub-folders: ``<parent folder>/<stem>.mat`` is looked
    for first. A file holds either

    - ``superpixels`` (H, W), the ids of a base segmentation, and ``labels``, a cell array of N
      lists of ids: one list per proposal; or
    - ``masks`` or ``maskmat``: (H, W, N) or (N, H, W), or a cell array of N masks (H, W);

    and ``scores`` (N,), taken as objectness. Where there are no scores, the file's order ranks the
    proposals and objectness falls linearly from 1.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = _existing(Path(folder), "folder of .mat proposals", Path.is_dir)

    def read(self, file_name: str, image_id: Any, size: tuple[int, int]) -> MaskProposals:
        """Read the proposals of an image of size (height, width).

        Raises:
            UserError: no file for the image, or not a file as described.
        """
        path = _file_of_image(self.folder, file_name, ".mat")
        try:
            content = read_mat(path, _MAT_KEYS)
        except NotImplementedError as error:
            raise UserError(
                f"{path} is a MATLAB file of version 7.3, which is not read here: save it again "
                "with MATLAB's option -v7"
            ) from error
        except Exception as error:  # noqa: BLE001  (scipy's parser raises nearly anything)
            raise UserError(
                f"{path}, the proposals of image {file_name}, is not a readable MATLAB file "
                f"({error}): replace it"
            ) from error
        try:
            masks, mask_size = _mat_masks(content, size)
            objectness = _mat_scores(content, len(masks))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, the proposals of image {file_name}, cannot be used: {error}"
            ) from error
        return MaskProposals(masks, objectness, mask_size).resize(size)


class CocoResultsProposals:
    """One COCO-results JSON: a list of ``{"image_id", "segmentation", "score"}``.

    The segmentation is an RLE, compressed or not, or a list of polygons. The file is read once and
    indexed by image; ids match as text, so that ``"17"`` finds ``17``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _existing(Path(path), "file of COCO-results proposals", Path.is_file)
        records = load_json(self.path)
        if not isinstance(records, list):
            raise UserError(
                f"{self.path} is no list of COCO results: give a JSON list of objects with "
                "image_id, segmentation and score"
            )
        self._records: dict[str, list[dict]] = defaultdict(list)
        for index, record in enumerate(records):
            if not isinstance(record, dict) or "image_id" not in record:
                raise UserError(
                    f"entry {index} of {self.path} has no image_id: give a JSON list of objects "
                    "with image_id, segmentation and score"
                )
            self._records[str(record["image_id"])].append(record)

    def read(self, file_name: str, image_id: Any, size: tuple[int, int]) -> MaskProposals:
        """Read the proposals of the image `image_id` of size (height, width).

        Raises:
            UserError: no proposals for the image, or an entry that is no COCO result.
        """
        records = self._records.get(str(image_id))
        if not records:
            raise UserError(
                f"{self.path} holds no proposals for image {file_name} (image_id {image_id}): add "
                "them, or choose another PROPOSALS.SOURCE"
            )
        where = f"{self.path}, image_id {image_id}"
        return _from_records(records, size, "score", where)


class SegmentAnythingProposals:
    """A folder with one JSON ``<image stem>.json`` per image, as segment-anything's automatic mask
    generator writes them (with RLE output), or as its SA-1B dataset ships them.

    A file is a list of masks or an object whose ``annotations`` is that list. Each mask has a
    ``segmentation`` (RLE, compressed or not) and a ``predicted_iou``, taken as objectness: it is
    what the model was trained to give as a mask's quality. ``<parent folder>/<stem>.json`` is
    looked for first.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = _existing(Path(folder), "folder of segment-anything proposals", Path.is_dir)

    def read(self, file_name: str, image_id: Any, size: tuple[int, int]) -> MaskProposals:
        """Read the proposals of an image of size (height, width).

        Raises:
            UserError: no file for the image, or not a file as described.
        """
        path = _file_of_image(self.folder, file_name, ".json")
        records = load_json(path)
        if isinstance(records, dict):
            records = records.get("annotations")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(
                f"{path}, the proposals of image {file_name}, is not what segment-anything's mask "
                "generator writes: give a list of masks, or an object with such 'annotations'"
            )
        return _from_records(records, size, "predicted_iou", str(path))


def _from_records(
    records: list[dict], size: tuple[int, int], score_key: str, where: str
) -> MaskProposals:
    """Proposals from dicts of ``segmentation`` and `score_key`, on an image of `size`."""
    masks, objectness = [], []
    for index, record in enumerate(records):
        try:
            masks.append(to_rle(record["segmentation"], size))
            objectness.append(_finite(record[score_key]))
        except KeyError as error:
            raise UserError(
                f"mask {index} of {where} has no {error}: segmentation (RLE) and {score_key} are "
                "needed"
            ) from error
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            raise UserError(
                f"mask {index} of {where} cannot be used ({error}): make the file again"
            ) from error
    mask_size = tuple(masks[0]["size"]) if masks else size
    if any(tuple(mask["size"]) != mask_size for mask in masks):
        raise UserError(f"the masks of {where} differ in size: make the file again")
    return MaskProposals(masks, objectness, mask_size).resize(size)


def _mat_masks(content: dict, size: tuple[int, int]) -> tuple[list[RLE], tuple[int, int]]:
    """RLEs from the variables of a .mat file, in the file's own size (H, W), and that size."""
    if "superpixels" in content and "labels" in content:
        return _superpixel_masks(content["superpixels"], _cells(content["labels"]))
    key = next((key for key in _MASK_KEYS if key in content), None)
    if key is None:
        names = ", ".join(sorted(name for name in content if not name.startswith("__"))) or "none"
        raise ValueError(
            "it needs the variables superpixels and labels, or masks, and scores, "
            f"but its variables are: {names}"
        )
    masks = content[key]
    if masks.dtype == object:
        masks = [_numeric(cell, key) for cell in _cells(masks)]
        if any(mask.ndim != 2 or mask.shape != masks[0].shape for mask in masks):
            raise ValueError(f"the masks in {key} differ in size")
        mask_size = masks[0].shape if masks else tuple(size)
    else:
        masks = _numeric(masks, key)
        if masks.ndim == 2:  # MATLAB drops the last axis where there is one mask only.
            masks = masks[..., None]
        if masks.ndim != 3:
            raise ValueError(f"{key} has {masks.ndim} dimensions instead of 3")
        # MATLAB's habit is (H, W, N); the image's size tells where somebody wrote (N, H, W).
        if masks.shape[:2] == tuple(size) or masks.shape[1:] != tuple(size):
            masks = masks.transpose(2, 0, 1)
        mask_size = masks.shape[1:]
    if 0 in mask_size:
        raise ValueError(f"the masks in {key} are empty")
    _check_work(len(masks), mask_size)
    return [encode_mask(mask != 0) for mask in masks], mask_size


def _superpixel_masks(
    superpixels: np.ndarray, labels: list[np.ndarray]
) -> tuple[list[RLE], tuple[int, int]]:
    superpixels = _ids(superpixels, "superpixels")
    if superpixels.ndim != 2 or superpixels.size == 0:
        raise ValueError("superpixels is not a map (H, W)")
    highest = superpixels.max()
    if superpixels.min() < 0 or highest > superpixels.size:
        raise ValueError("superpixels holds ids that are no ids")
    _check_work(len(labels), superpixels.shape)
    masks = []
    for cell in labels:
        ids = _ids(cell, "labels").reshape(-1)
        if ids.size and (ids.min() < 0 or ids.max() > highest):
            raise ValueError(f"labels names a superpixel outside 0..{highest}")
        is_member = np.zeros(highest + 1, dtype=bool)
        is_member[ids] = True
        # Encoded one at a time: thousands of decoded masks are gigabytes.
        masks.append(encode_mask(is_member[superpixels]))
    return masks, superpixels.shape


def _check_work(count: int, size: tuple[int, int]) -> None:
    height, width = checked_size(size)
    if count * height * width > _MAX_PIXELS_OF_MASKS:
        raise ValueError(f"{count} masks of {height} x {width} pixels are too many: keep the best")


def _mat_scores(content: dict, count: int) -> np.ndarray:
    if "scores" not in content:
        return 1.0 - np.arange(count) / max(count, 1)
    scores = _numeric(content["scores"], "scores").astype(np.float32).reshape(-1)
    if len(scores) != count:
        raise ValueError(f"it has {count} proposals but {len(scores)} scores")
    if not np.isfinite(scores).all():
        raise ValueError("its scores are not all finite")
    return scores


def _cells(array: np.ndarray) -> list[np.ndarray]:
    """The entries of a MATLAB cell array; a matrix counts as a cell array of its rows."""
    if array.dtype != object:
        return list(np.atleast_2d(array))
    cells = list(array.reshape(-1, order="F"))
    # A cell array of cells, as nested lists become, is unpacked once more.
    return [
        cell.item()
        if isinstance(cell, np.ndarray) and cell.dtype == object and cell.size == 1
        else cell
        for cell in cells
    ]


def _numeric(array: Any, name: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is no array of numbers")
    return array


def _ids(array: Any, name: str) -> np.ndarray:
    values = _numeric(array, name)
    if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
        raise ValueError(f"{name} holds numbers that are not whole")
    return values.astype(np.int64)


def _finite(value: Any) -> float:
    number = float(value)
    if not abs(number) <= np.finfo(np.float32).max:  # that is what objectness is kept as
        raise ValueError(f"{value!r} is not finite")
    return number


def _existing(path: Path, what: str, test) -> Path:
    if not test(path):
        raise UserError(f"there is no {what} {path}: set PROPOSALS.PATH to it")
    return path


def _file_of_image(folder: Path, file_name: str, suffix: str) -> Path:
    image = Path(file_name)
    candidates = (folder / image.parent.name / image.stem, folder / image.stem)
    for candidate in candidates:
        path = candidate.with_name(candidate.name + suffix)
        if path.is_file():
            return path
    raise UserError(
        f"there are no proposals for image {file_name}: {folder / image.stem}{suffix} does not "
        "exist; add it, or choose another PROPOSALS.SOURCE"
    )
