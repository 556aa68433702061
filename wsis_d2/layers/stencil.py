"""Steps of a random walk as products with a stencil: a weight for every pair of neighbours.

All of them read a map as one flat row of N = H * W pixels. A neighbour then is a shift along it.
Where a shift runs over the side of the map into another row, the affinity is 0.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from .affinity import PairAffinity

__all__ = ["SparseStencil", "Stencil"]


class Stencil:
    """One step of the walk u -> u A D^-1 on an affinity A with column sums D.

    This one adds shifted views: it runs on every device and needs no memory but the pairs.
    The others, faster, differ in :meth:`product` and :meth:`recur` and in the layout of u.
    """

    def __init__(self, affinity: PairAffinity):
        self.shape = affinity.shape
        self.shifts, self.weights = _flat_pairs(affinity)
        # In float64: hundreds of steps turn a float32 sum's error into a bias.
        degrees = affinity.to(torch.float64).degrees()
        self.inverse_degrees = degrees.reciprocal().flatten().to(self.weights.dtype)

    def pack(self, x: Tensor) -> Tensor:
        """Maps (K, H, W) to u in the layout of this stencil, a copy."""
        # Maps whose channels lie last in memory would stay like that.
        return x.flatten(1).clone(memory_format=torch.contiguous_format)

    def unpack(self, u: Tensor, num_maps: int) -> Tensor:
        """The inverse of :meth:`pack`."""
        return u.view(num_maps, *self.shape)

    def product(self, u: Tensor) -> Tensor:
        """u A D^-1."""
        total = u.clone()
        for shift, weight in zip(self.shifts, self.weights):
            weight = weight[:-shift]
            total[:, :-shift].addcmul_(u[:, shift:], weight)
            total[:, shift:].addcmul_(u[:, :-shift], weight)
        return total.mul_(self.inverse_degrees)

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        """2 u A D^-1 - v, written over v: a step of Chebyshev's recurrence."""
        return torch.sub(self.product(u).mul_(2), v, out=v)


class SparseStencil(Stencil):
    """A sparse matrix with as many entries in every row: the fastest product on a CPU.

    u is (N, K), so that the K values of a neighbour lie side by side.
    """

    def __init__(self, affinity: PairAffinity):
        self.shape = affinity.shape
        shifts, weights = _flat_pairs(affinity)
        num_pairs, num_pixels = weights.shape
        # The row of a pixel: neighbours before it, itself, neighbours after it.
        entries = weights.new_zeros((num_pixels, 2 * num_pairs + 1))
        entries[:, num_pairs] = 1
        for i, (shift, weight) in enumerate(zip(shifts, weights), start=1):
            entries[:, num_pairs + i] = weight
            entries[shift:, num_pairs - i] = weight[:-shift]
        degrees = entries.sum(1, keepdim=True, dtype=torch.float64)
        entries *= degrees.reciprocal().to(entries.dtype)
        # Smaller ones would only multiply to denormal numbers, which are slow.
        F.threshold_(entries, torch.finfo(entries.dtype).tiny ** (1 / 3), 0)
        pixels = torch.arange(num_pixels, dtype=torch.int32)[:, None]
        columns = pixels + torch.tensor(
            [*(-shift for shift in reversed(shifts)), 0, *shifts], dtype=torch.int32
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            self.matrix = torch.sparse_csr_tensor(
                torch.arange(0, entries.numel() + 1, entries.shape[1], dtype=torch.int32),
                # Entries that stand for no pixel are 0 and may have any column.
                columns.clamp_(0, num_pixels - 1).flatten(),
                entries.flatten(),
                (num_pixels, num_pixels),
                check_invariants=False,
            )

    def pack(self, x: Tensor) -> Tensor:
        # Rows of 4, 8, 12 .. numbers are the quickest: 12 take less time than 10.
        x = F.pad(x.flatten(1), (0, 0, 0, -len(x) % 4))
        return x.t().clone(memory_format=torch.contiguous_format)

    def unpack(self, u: Tensor, num_maps: int) -> Tensor:
        return u[:, :num_maps].t().reshape(num_maps, *self.shape)

    def product(self, u: Tensor) -> Tensor:
        return self.matrix @ u

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        return torch.addmm(v, self.matrix, u, beta=-1, alpha=2, out=v)


def _flat_pairs(affinity: PairAffinity) -> tuple[list[int], Tensor]:
    """D shifts, 0 < shift < N, and affinities (D, N), of the offsets that fit into the map.

    The affinities are contiguous, whatever the strides of those that they come from.
    """
    height, width = affinity.shape
    offsets, values = affinity.offsets.tolist(), affinity.values.flatten(1)
    fitting = [i for i, (dy, dx) in enumerate(offsets) if dy < height and abs(dx) < width]
    if len(fitting) < len(offsets):
        values = values[fitting]
    return [offsets[i][0] * width + offsets[i][1] for i in fitting], values.contiguous()
