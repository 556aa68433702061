"""Class-agnostic mask proposals of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import UserError
from .masks import (
    checked_size,
    decode_mask,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_areas,
    resize_masks,
    to_rle,
    with_text_counts,
)

# Masks that are decoded at a time where only a few of their pixels are wanted.
_DECODE_CHUNK = 256


@dataclass(eq=False)
class MaskProposals:
    """Mask proposals of one image, best objectness first.

    The masks are kept as COCO run-length encodings: hundreds of them fit in a few hundred kB.

    Attributes:
        masks: N RLEs, as of :func:`wsis_d2.structures.to_rle`.
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
        self.masks = [with_text_counts(self.masks[i]) for i in order]

    @classmethod
    def from_masks(cls, masks: np.ndarray, objectness: np.ndarray) -> MaskProposals:
        """Encode masks: (N, H, W) bool, objectness: (N,)."""
        masks = np.asarray(masks)
        return cls(encode_masks(masks), objectness, masks.shape[1:])

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> MaskProposals:
        """The proposals of a slice, an integer array or a boolean array."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return MaskProposals([self.masks[i] for i in chosen], self.objectness[chosen], self.size)

    def decode(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the masks as an (N, H, W) bool array, all of them or those of `indices` (N,)."""
        chosen = range(len(self)) if indices is None else np.arange(len(self))[indices].reshape(-1)
        return decode_masks([self.masks[i] for i in chosen], self.size)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) int64, in pixels."""
        return mask_areas(self.masks)

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
            chunk = slice(start, start + _DECODE_CHUNK)
            stacked = decode_masks(self.masks[chunk], self.size)
            result[:, chunk] = stacked[:, points[:, 0], points[:, 1]].T
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
        masks = [encode_mask(resize_masks(decode_mask(mask), size)) for mask in self.masks]
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
            size = checked_size(record["size"])
            masks = [to_rle({"size": size, "counts": str(counts)}) for counts in record["counts"]]
            return cls(masks, [float(value) for value in record["objectness"]], size)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(
                f"{where} holds no valid mask proposals ({error}): delete it and make it again"
            ) from error
