"""Class-agnostic mask proposals of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError

# Masks that are decoded at a time where only a few of their pixels are wanted.
_DECODE_CHUNK = 256
# pycocotools counts pixels in 32 bits.
_MAX_PIXELS = 2**31 - 1


@dataclass(eq=False)
class MaskProposals:
    """Mask proposals of one image, best objectness first.

    The masks are kept as COCO run-length encodings: hundreds of them fit in a few hundred kB.

    Attributes:
        masks: N compressed RLEs, ``{"size": [height, width], "counts": str}``.
        objectness: (N,) float32, higher is better; the scale is that of the source. Whatever the
            order given, the object holds masks and objectness sorted descending (stable).
        size: (height, width) of the image. May be left out where there is at least one mask.
    """

    masks: list[dict[str, Any]]
    objectness: np.ndarray
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.objectness = np.asarray(self.objectness, dtype=np.float32).reshape(-1)
        if self.size is None:
            if not self.masks:
                raise ValueError("the image size must be given where there are no masks")
            self.size = tuple(self.masks[0]["size"])
        self.size = (int(self.size[0]), int(self.size[1]))
        if len(self.masks) != len(self.objectness):
            raise ValueError(
                f"{len(self.masks)} masks but {len(self.objectness)} objectness values"
            )
        if not np.isfinite(self.objectness).all():
            raise ValueError("objectness must be finite")
        if any(tuple(mask["size"]) != self.size for mask in self.masks):
            raise ValueError(f"a mask has another size than the image's {self.size}")
        order = np.argsort(-self.objectness, kind="stable")
        self.objectness = self.objectness[order]
        self.masks = [_with_text_counts(self.masks[i]) for i in order]

    @classmethod
    def from_masks(cls, masks: np.ndarray, objectness: np.ndarray) -> MaskProposals:
        """Encode masks: (N, H, W) bool, objectness: (N,)."""
        masks = np.asarray(masks)
        rles = [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
        return cls(rles, objectness, masks.shape[1:])

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> MaskProposals:
        """The proposals of a slice, an integer array or a boolean array."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return MaskProposals([self.masks[i] for i in chosen], self.objectness[chosen], self.size)

    def decode(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the masks as an (N, H, W) bool array, all of them or those of `indices` (N,)."""
        chosen = range(len(self)) if indices is None else np.arange(len(self))[indices].reshape(-1)
        if len(chosen) == 0:
            return np.zeros((0, *self.size), dtype=bool)
        stacked = mask_utils.decode([self.masks[i] for i in chosen])  # (H, W, N)
        return stacked.transpose(2, 0, 1).astype(bool)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) int64, in pixels."""
        # One by one: given more than 255 masks at a time, pycocotools 2.0.11 fails with NumPy 2.
        return np.array([mask_utils.area(mask) for mask in self.masks], dtype=np.int64)

    def containing(self, points: np.ndarray) -> np.ndarray:
        """Which proposals contain which points.

        Args:
            points: (P, 2) integers, (y, x) inside the image.

        Returns:
            (P, N) bool.
        """
        points = np.asarray(points, dtype=np.int64).reshape(-1, 2)
        if ((points < 0) | (points >= self.size)).any():
            raise ValueError(f"a point lies outside the image of size {self.size}")
        result = np.zeros((len(points), len(self)), dtype=bool)
        for start in range(0, len(self), _DECODE_CHUNK):
            stacked = mask_utils.decode(self.masks[start : start + _DECODE_CHUNK])
            result[:, start : start + _DECODE_CHUNK] = stacked[points[:, 0], points[:, 1]]
        return result

    def filter(
        self,
        min_area_fraction: float = 0.0,
        max_area_fraction: float = 1.0,
        max_per_image: int | None = None,
    ) -> MaskProposals:
        """The best `max_per_image` of the proposals whose area, as a fraction of the image's, lies
        in [min_area_fraction, max_area_fraction]. Empty masks are always dropped."""
        fraction = self.areas / (self.size[0] * self.size[1])
        keep = (self.areas > 0) & (fraction >= min_area_fraction) & (fraction <= max_area_fraction)
        return self[np.flatnonzero(keep)[:max_per_image]]

    def resize(self, size: tuple[int, int]) -> MaskProposals:
        """The proposals on an image of another (height, width), by nearest neighbour."""
        if tuple(size) == self.size:
            return self
        rows = (np.arange(size[0]) * self.size[0]) // size[0]
        columns = (np.arange(size[1]) * self.size[1]) // size[1]
        masks = [
            mask_utils.encode(np.asfortranarray(mask_utils.decode(mask)[rows][:, columns]))
            for mask in self.masks
        ]
        return MaskProposals(masks, self.objectness, size)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict of `size`, `counts` and `objectness`."""
        return {
            "size": list(self.size),
            "counts": [mask["counts"] for mask in self.masks],
            "objectness": [round(float(value), 6) for value in self.objectness],
        }

    @classmethod
    def from_json(cls, record: Any, where: str = "the record") -> MaskProposals:
        """Inverse of :meth:`to_json` (objectness to 6 decimals).

        Args:
            record: what was loaded.
            where: how the error calls it, such as the file's path.

        Raises:
            UserError: `record` is not what :meth:`to_json` writes.
        """
        try:
            height, width = (_positive_int(side) for side in record["size"])
            masks = [
                checked_rle({"size": [height, width], "counts": str(counts)})
                for counts in record["counts"]
            ]
            return cls(masks, [float(value) for value in record["objectness"]], (height, width))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where} holds no valid mask proposals ({error}): delete it and make it again"
            ) from error


def checked_rle(segmentation: Any) -> dict[str, Any]:
    """A COCO RLE, compressed or not, as a compressed one that is known to fit its size.

    pycocotools trusts the counts that it is given and reads or writes outside its buffers where
    they are wrong, so strangers' counts are decoded here first.

    Args:
        segmentation: ``{"size": [h, w], "counts": str | bytes | list[int]}``.

    Raises:
        ValueError, KeyError, TypeError: it is not such an RLE.
    """
    height, width = (_positive_int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    if isinstance(counts, list):
        runs = np.array([_whole(run) for run in counts], dtype=np.int64)
    else:
        text = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
        runs = _runs_of_compressed(text)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")
    if (runs < 0).any() or (runs > _MAX_PIXELS).any() or runs.sum() != height * width:
        raise ValueError(f"an RLE whose runs do not add up to {height} x {width} pixels")
    if isinstance(counts, list):
        return _with_text_counts(
            mask_utils.frPyObjects(
                {"size": [height, width], "counts": runs.tolist()}, height, width
            )
        )
    return {"size": [height, width], "counts": text.decode("ascii")}


def _runs_of_compressed(text: bytes) -> np.ndarray:
    """Run lengths of COCO's compressed RLE.

    COCO's format: characters 48..111 carry 6 bits, five of the number (low bits first) and one
    that says that more follow; the last one's bit 4 is the sign; from the fourth run on, a number
    is the difference to the run before the last.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0:
        return np.zeros(0, dtype=np.int64)
    more = (codes & 0x20) != 0
    if (codes < 0).any() or (codes > 63).any() or more[-1]:
        raise ValueError("an RLE with characters that COCO's compression does not use")
    starts = np.flatnonzero(np.concatenate(([True], ~more[:-1])))
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > 7:
        raise ValueError("an RLE with a run longer than any image")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 0x1F) << shifts, starts)
    negative = (codes[starts + lengths - 1] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    # Undo the differences: odd and even runs are two independent cumulative sums. The first run
    # and those at 1 and 2 are stored as they are.
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs


def _with_text_counts(mask: dict[str, Any]) -> dict[str, Any]:
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in mask["size"]], "counts": text}


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    if abs(value) > _MAX_PIXELS:
        raise ValueError(f"{value} is more than any image has")
    return value


def _positive_int(value: Any) -> int:
    if _whole(value) <= 0:
        raise ValueError(f"an image side of {value!r} pixels")
    return value
