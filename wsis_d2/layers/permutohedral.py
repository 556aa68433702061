"""Gaussian filtering in many dimensions on a permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Tensor operations handle all points at once, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PermutohedralLattice:
    """The lattice around N points, ready to filter values of these points.

    Every point lies in a simplex of d + 1 cells. It gives its values to them by barycentric weights
    ("splat"), the cells are blurred along the d + 1 axes of the lattice ("blur"), and the point
    takes the same shares of the blurred cells ("slice").

    Args:
        features: (N, d) float32 coordinates of the points, in standard deviations of the filter.

    Raises:
        ValueError: wrong shape, or coordinates so far apart that the cells cannot be numbered.

    Attributes:
        num_cells: cells that have a point around them.
    """

    def __init__(self, features: Tensor):
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features must be (N, d) and not empty, got {tuple(features.shape)}")
        corners, self._weights = _simplices(features)
        numbers, steps = _numbered(corners)
        cells, index = numbers.unique(return_inverse=True)
        self.num_cells = len(cells)
        # (d + 1, N): the cells of each point.
        self._index = index.view(numbers.shape)
        # (d + 1, 2, M): the cells on both sides along each axis; M, a cell of zeros, where none is.
        self._neighbors = torch.stack([_find(cells, cells + step) for step in steps])

    def filter(self, values: Tensor) -> Tensor:
        """Sums of the values of all points, weighted by a Gaussian of their distances.

        Args:
            values: (N, C) float32.

        Returns:
            (N, C) float32: near ``sum_j exp(-|f_i - f_j|^2 / 2) values_j`` up to one factor.
        """
        cells = values.new_zeros(self.num_cells + 1, values.shape[1])
        for index, weight in zip(self._index, self._weights):
            cells.index_add_(0, index, weight[:, None] * values)
        for both in self._neighbors:
            cells[:-1] += 0.5 * (cells[both[0]] + cells[both[1]])
        result = torch.zeros_like(values)
        for index, weight in zip(self._index, self._weights):
            result.addcmul_(weight[:, None], cells[index])
        # What the blurs' weights, 1/2, 1 and 1/2, add up to: see the paper's section 3.1.
        return result / (1 + 2.0 ** -(len(self._index) - 1))


def _simplices(features: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex around each point: (d + 1, N, d) int64 corners, (d + 1, N) barycentric weights.

    A corner has d + 1 coordinates whose sum is 0; the last one is left out.
    """
    dim = features.shape[1]
    # The plane in d + 1 dimensions that the points are put into, scaled so that splat, blur and
    # slice together have standard deviation 1 (the paper's eq. 4 and section 3.1).
    numbers = torch.arange(1, dim + 1, device=features.device)
    scaled = features * (math.sqrt(2 / 3) * (dim + 1) / (numbers * (numbers + 1)).sqrt())
    rest = scaled.flip(1).cumsum(1).flip(1)
    elevated = torch.cat([rest, rest.new_zeros(len(rest), 1)], 1)
    elevated[:, 1:] -= numbers * scaled

    # The nearest corner of remainder 0, and the order of the distances from it ...
    nearest = (elevated / (dim + 1)).round()
    excess = nearest.sum(1, keepdim=True).long()
    nearest *= dim + 1
    order = (elevated - nearest).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(dim + 1, device=order.device).expand_as(order)
    )
    # ... which is moved back into the plane where rounding has left it.
    rank += excess
    moved = (rank < 0).long() - (rank > dim).long()
    rank += moved * (dim + 1)
    nearest += moved * (dim + 1)

    by_rank = torch.empty_like(elevated).scatter_(1, rank, (elevated - nearest) / (dim + 1))
    weights = torch.cat([by_rank, by_rank[:, :1] - 1], 1).diff(dim=1).neg().flip(1)

    remainders = torch.arange(dim + 1, device=features.device)[:, None, None]
    below = rank[:, :dim] <= dim - remainders
    corners = nearest[:, :dim].long() + torch.where(below, remainders, remainders - (dim + 1))
    return corners, weights.T.contiguous()


def _numbered(corners: Tensor) -> tuple[Tensor, Tensor]:
    """One number for each corner, and the steps to its neighbours along the d + 1 axes.

    Returns:
        (d + 1, N) int64 numbers, equal for equal corners, and (d + 1, 2, 1) int64 steps.
    """
    dim = corners.shape[-1]
    # All coordinates of a corner leave the same remainder, so that these are integers, too.
    axes = -torch.ones(dim + 1, dim, dtype=torch.int64, device=corners.device)
    axes[range(dim), range(dim)] = dim
    digits, steps = (
        torch.cat([x[..., :1], (x[..., 1:] - x[..., :1]) // (dim + 1)], -1) for x in (corners, axes)
    )
    # A neighbour is no farther than d in one digit: it never runs into the next one.
    flat = digits.flatten(0, -2)
    lowest, extents = flat.amin(0), flat.amax(0) - flat.amin(0) + 1 + 2 * dim
    if math.prod(extents.tolist()) >= 1 << 62:
        raise ValueError(
            "the points lie too many standard deviations apart for a lattice: choose larger ones"
        )
    places = torch.cat([extents.new_ones(1), extents[:-1].cumprod(0)])
    along = (steps * places).sum(-1)
    return ((digits - lowest) * places).sum(-1), torch.stack([along, -along], 1)[..., None]


def _find(cells: Tensor, wanted: Tensor) -> Tensor:
    """Where the numbers ``wanted`` stand in the sorted (M,) ``cells``; M where they do not."""
    place = torch.searchsorted(cells, wanted)
    found = cells[place.clamp(max=len(cells) - 1)] == wanted
    return torch.where(found, place, len(cells))
