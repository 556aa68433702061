"""Affinities between neighbouring pixels, stored once per unordered pair."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .pairs import half_disk, path_pixels

__all__ = ["PairAffinity", "boundary_affinity", "feature_affinity"]


@dataclass(frozen=True, eq=False)
class PairAffinity:
    """A symmetric, sparse affinity matrix A of the pixels of a map, its diagonal 1.

    It takes D numbers per pixel where the matrix itself would take H * W of them.

    Attributes:
        offsets: (D, 2) int64 on the CPU: offsets (dy, dx) in reading order, one of every pair
            {(dy, dx), (-dy, -dx)}: dy > 0, or dy = 0 and dx > 0.
        values: (D, H, W) float in [0, 1]: the affinity between pixel (y, x) and pixel
            (y, x) + offset; 0 where that end lies outside the map.
    """

    offsets: Tensor
    values: Tensor

    def __post_init__(self):
        if self.values.dim() != 3 or self.offsets.shape != (len(self.values), 2):
            raise ValueError(
                "a pair affinity takes offsets (D, 2) and values (D, H, W), "
                f"got {tuple(self.offsets.shape)} and {tuple(self.values.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the map."""
        return tuple(self.values.shape[1:])

    def pow(self, exponent: float) -> PairAffinity:
        """Every affinity to a positive power."""
        return replace(self, values=self.values.pow(exponent))

    def to(self, *args, **kwargs) -> PairAffinity:
        """The values on another device or of another dtype, as ``Tensor.to``."""
        return replace(self, values=self.values.to(*args, **kwargs))

    def degrees(self) -> Tensor:
        """(H, W) column sums of A, its diagonal included: at least 1."""
        degrees = 1 + self.values.sum(0)
        for (dy, dx), values in zip(self.offsets.tolist(), self.values):
            start, end = pair_ends(dy, dx, *self.shape)
            degrees[end] += values[start]
        return degrees

    def dense(self) -> Tensor:
        """A as a matrix (H * W, H * W), pixels in reading order: for small maps and checks."""
        height, width = self.shape
        index = torch.arange(height * width, device=self.values.device).view(height, width)
        matrix = torch.eye(height * width, dtype=self.values.dtype, device=self.values.device)
        for (dy, dx), values in zip(self.offsets.tolist(), self.values):
            start, end = pair_ends(dy, dx, height, width)
            p, q = index[start].flatten(), index[end].flatten()
            matrix[p, q] = matrix[q, p] = values[start].flatten()
        return matrix


def pair_ends(dy: int, dx: int, height: int, width: int) -> tuple[tuple, tuple]:
    """The two ends of all pairs of one offset, dy >= 0, as indices of maps (..., height, width).

    Pixel i of ``maps[start]`` and pixel i of ``maps[end]`` are ``(dy, dx)`` apart.
    """
    height, width = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    start = (..., slice(0, height), slice(left, left + width))
    end = (..., slice(dy, dy + height), slice(right, right + width))
    return start, end


def boundary_affinity(boundary: Tensor | np.ndarray, radius: int) -> PairAffinity:
    """1 - the strongest boundary on the path between two pixels (IRNet, eq. 3).

    All pairs with both ends inside the map and at a distance below the radius count. The maxima are
    taken over shifted views of the map, so there are no tables of indices.

    Args:
        boundary: (H, W) float in [0, 1], 1 where there surely is a class boundary.
        radius: pixels; at least 2.

    Returns:
        The affinity, D pairs per pixel: 34 at radius 5, 149 at radius 10.

    Raises:
        ValueError: ``boundary`` is no map (H, W), or the radius leaves no pair.
    """
    boundary = torch.as_tensor(boundary)
    if boundary.dim() != 2:
        raise ValueError(f"a boundary map is (H, W), got {tuple(boundary.shape)}")
    offsets = half_disk(radius)
    values = boundary.new_zeros((len(offsets), *boundary.shape))
    height, width = boundary.shape
    for i, (dy, dx) in enumerate(offsets):
        (_, rows, columns), _ = pair_ends(dy, dx, height, width)
        on_path = (
            boundary[rows.start + y : rows.stop + y, columns.start + x : columns.stop + x]
            for y, x in path_pixels(dy, dx)
        )
        values[i, rows, columns] = 1 - functools.reduce(torch.maximum, on_path)
    return PairAffinity(torch.tensor(offsets), values)


def feature_affinity(features: Tensor | np.ndarray, radius: int) -> PairAffinity:
    """exp(- mean over channels of |f(p) - f(q)|) (AffinityNet, eq. 3).

    Args:
        features: (C, H, W) float.
        radius: pixels; at least 2. Pairs at a distance below it count.

    Returns:
        The affinity, in (0, 1] for all pairs inside the map.

    Raises:
        ValueError: ``features`` is not (C, H, W), or the radius leaves no pair.
    """
    features = torch.as_tensor(features)
    if features.dim() != 3:
        raise ValueError(f"features are (C, H, W), got {tuple(features.shape)}")
    offsets = half_disk(radius)
    values = features.new_zeros((len(offsets), *features.shape[1:]))
    for i, (dy, dx) in enumerate(offsets):
        start, end = pair_ends(dy, dx, *features.shape[1:])
        distance = (features[start] - features[end]).abs().mean(0)
        values[i][start] = distance.neg().exp()
    return PairAffinity(torch.tensor(offsets), values)


def stack_affinities(affinities: Sequence[PairAffinity]) -> PairAffinity:
    """One affinity of a tall map that holds all maps below each other, left-aligned.

    No pair joins two maps, so what walks on the tall map walks on each of them alone.

    Raises:
        ValueError: the affinities have different offsets.
    """
    first = affinities[0]
    if any(not torch.equal(a.offsets, first.offsets) for a in affinities):
        raise ValueError("affinities of one batch must have the same radius")
    width = max(a.shape[1] for a in affinities)
    values = [torch.nn.functional.pad(a.values, (0, width - a.shape[1])) for a in affinities]
    return PairAffinity(first.offsets, torch.cat(values, dim=1))
