"""Regions of a segmentation and the boundaries between them: what all hierarchies are built on."""

from __future__ import annotations

import numpy as np
from scipy import sparse


class RegionGraph:
    """Base regions and the boundaries between neighbors (4-neighborhood).

    A candidate is a union of base regions; candidates come as (M, R) bool, so that thousands of
    them are measured by a few matrix products, before any mask is drawn.

    Attributes:
        labels: (H, W) int64, region of each pixel, 0..R-1.
        count: R.
        area: (R,) float64 pixels.
        border: (R,) pixel sides on the image's border.
        sides: (H, W-1) and (H-1, W) bool, where horizontal and vertical neighbors differ in region.
        ends: (B, 2) the regions of each boundary, the lower number first.
        length: (B,) float64, in pixel sides.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels = labels.astype(np.int64)
        self.count = count = int(labels.max()) + 1
        self.area = self.sum_pixels(np.ones(labels.shape))
        frame = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        self.border = np.bincount(frame, minlength=count)

        # Pixel sides between two regions: those between horizontal neighbors, then vertical ones.
        self.sides = (labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:])
        first, second = (
            self.at_sides(labels[:, :-1], labels[:-1]),
            self.at_sides(labels[:, 1:], labels[1:]),
        )
        keys = np.minimum(first, second) * count + np.maximum(first, second)
        keys, self._boundary_of_side = np.unique(keys, return_inverse=True)
        self.ends = np.stack([keys // count, keys % count], axis=1)
        self.length = self.sum_sides(np.ones(len(first)))

    def sum_pixels(self, values: np.ndarray) -> np.ndarray:
        """(R,) sums of an (H, W) map over the regions."""
        return np.bincount(self.labels.ravel(), values.ravel(), minlength=self.count)

    def means(self, maps: np.ndarray) -> np.ndarray:
        """(R, C) float64 means of (H, W, C) maps over the regions."""
        pixels = self.labels.size
        entries = (np.ones(pixels, np.float32), (self.labels.ravel(), np.arange(pixels)))
        pool = sparse.csr_array(entries, shape=(self.count, pixels))
        return (pool @ maps.reshape(pixels, -1)) / self.area[:, None]

    def at_sides(self, horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
        """(S,) values of maps (H, W-1) and (H-1, W) at the sides between two regions."""
        return np.concatenate([horizontal[self.sides[0]], vertical[self.sides[1]]])

    def map_at_sides(self, values: np.ndarray) -> np.ndarray:
        """(S,) the larger of an (H, W) map's values at the two pixels of each side."""
        return self.at_sides(
            np.maximum(values[:, :-1], values[:, 1:]), np.maximum(values[:-1], values[1:])
        )

    def sum_sides(self, values: np.ndarray) -> np.ndarray:
        """(B,) sums over the boundaries of (S,) values of sides."""
        return np.bincount(self._boundary_of_side, values, minlength=len(self.ends))

    def sum_map_along(self, values: np.ndarray) -> np.ndarray:
        """(B,) sums along the boundaries of :meth:`map_at_sides`."""
        return self.sum_sides(self.map_at_sides(values))

    def draw_sides(self, values: np.ndarray, horizontal: np.ndarray, vertical: np.ndarray) -> None:
        """Add (B,) values of boundaries to maps (H, W-1) and (H-1, W) of sides."""
        for side, target, part in zip(
            self.sides,
            (horizontal, vertical),
            np.split(values[self._boundary_of_side], [np.count_nonzero(self.sides[0])]),
        ):
            target[side] += part

    def matrix(self, values: np.ndarray) -> sparse.csr_array:
        """(R, R) symmetric matrix of (B,) values of boundaries."""
        i, j = self.ends.T
        shape = (self.count, self.count)
        entries = (
            np.concatenate([values, values]),
            (np.concatenate([i, j]), np.concatenate([j, i])),
        )
        return sparse.csr_array(entries, shape=shape, dtype=np.float32)

    def in_area_range(self, candidates: np.ndarray, lowest: float, highest: float) -> np.ndarray:
        """(M,) bool: which of the candidates (M, R) cover such a fraction of the image."""
        fraction = candidates @ self.area / self.labels.size
        return (fraction >= lowest) & (fraction <= highest)

    def fill_holes(self, candidates: np.ndarray) -> np.ndarray:
        """Candidates (M, R) with the regions that they enclose: no way from there to the border."""
        # One row per region with one bit per candidate: a step goes over 64 candidates at once.
        padded = np.pad(candidates, ((0, -len(candidates) % 64), (0, 0)))
        inside = np.packbits(np.ascontiguousarray(padded.T), axis=1).view(np.uint64)
        outside = np.where(self.border[:, None] > 0, ~inside, np.uint64(0))
        starts, neighbors = self._neighbors()
        while len(neighbors):
            reached = np.bitwise_or.reduceat(outside[neighbors], starts, axis=0)
            reached = (outside | reached) & ~inside
            if np.array_equal(reached, outside):
                break
            outside = reached
        filled = np.unpackbits((~outside).view(np.uint8), axis=1, count=len(candidates))
        return filled.T.astype(bool, order="C")

    def _neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """The neighbors of all regions, one region after the other, and where each one's start."""
        adjacency = self.matrix(np.ones(len(self.ends)))
        return adjacency.indptr[:-1], adjacency.indices
