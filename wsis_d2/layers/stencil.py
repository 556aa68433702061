"""Products with a symmetric stencil matrix: a weight for every pair of neighbouring pixels.

All of them read a map as one flat row of N = H * W pixels. A neighbour then is a shift along it.
Where a shift runs over the side of the map into another row, the weight is 0.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from .affinity import PairAffinity, pair_ends

__all__ = ["Stencil", "symmetric_stencil"]


class Stencil:
    """The matrix S = D^-1/2 A D^-1/2 of an affinity A with column sums D, as a linear operator.

    This one adds shifted views: it runs on every device and needs no memory but the pairs.
    The others, faster, differ in :meth:`product` and :meth:`recur` alone and in the layout of u.
    """

    def __init__(self, affinity: PairAffinity):
        height, width = affinity.shape
        dtype = affinity.values.dtype
        # The largest eigenvalue must be 1 after hundreds of steps: float32 sums leave 5 times the
        # error in the walk.
        degrees = affinity.to(torch.float64).degrees()
        scale = degrees.rsqrt()
        weights = torch.zeros_like(affinity.values)
        for (dy, dx), weight, value in zip(affinity.offsets.tolist(), weights, affinity.values):
            start, end = pair_ends(dy, dx, height, width)
            weight[start] = value[start] * scale[start] * scale[end]
        # Smaller ones would only multiply to denormal numbers, which are slow on a CPU.
        weights.masked_fill_(weights < torch.finfo(dtype).tiny ** (1 / 3), 0)
        self.root_degrees = degrees.sqrt().to(dtype)
        self.shifts = (affinity.offsets[:, 0] * width + affinity.offsets[:, 1]).tolist()
        self.weights = weights.flatten(1)
        self.diagonal = degrees.reciprocal().flatten().to(dtype)

    def pack(self, x: Tensor) -> Tensor:
        """Maps (K, H, W) to vectors in the layout of this operator, a copy."""
        return x.flatten(1).clone()

    def unpack(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`pack`."""
        return u.view(-1, *self.root_degrees.shape)

    def product(self, u: Tensor) -> Tensor:
        """S u."""
        return self._add_product(torch.zeros_like(u), u, 1)

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        """2 S u - v, written over v: a step of Chebyshev's recurrence."""
        return self._add_product(v.neg_(), u, 2)

    def _add_product(self, out: Tensor, u: Tensor, factor: float) -> Tensor:
        out.addcmul_(u, self.diagonal, value=factor)
        for shift, weight in zip(self.shifts, self.weights):
            weight = weight[: u.shape[1] - shift]
            out[:, :-shift].addcmul_(u[:, shift:], weight, value=factor)
            out[:, shift:].addcmul_(u[:, :-shift], weight, value=factor)
        return out


class SparseStencil(Stencil):
    """A sparse matrix with as many entries in every row: the fastest product on a CPU.

    Vectors are (N, K), so that the K channels of a neighbour lie side by side.
    """

    def __init__(self, affinity: PairAffinity):
        super().__init__(affinity)
        num_pixels, num_pairs = self.diagonal.numel(), len(self.shifts)
        entries = self.weights.new_zeros((num_pixels, 2 * num_pairs + 1))
        entries[:, num_pairs] = self.diagonal
        for i, (shift, weight) in enumerate(zip(self.shifts, self.weights), start=1):
            entries[:, num_pairs + i] = weight
            entries[shift:, num_pairs - i] = weight[: num_pixels - shift]
        shifts = torch.tensor(self.shifts, dtype=torch.int32)
        shifts = torch.cat([-shifts.flip(0), shifts.new_zeros(1), shifts])
        pixels = torch.arange(num_pixels, dtype=torch.int32)
        self.matrix = torch.sparse_csr_tensor(
            torch.arange(0, entries.numel() + 1, entries.shape[1], dtype=torch.int32),
            # Entries outside the map are 0 and may stand in any column.
            (pixels[:, None] + shifts).clamp_(0, num_pixels - 1).flatten(),
            entries.flatten(),
            (num_pixels, num_pixels),
        )
        del self.weights

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(1).t().clone(memory_format=torch.contiguous_format)

    def unpack(self, u: Tensor) -> Tensor:
        return u.t().reshape(-1, *self.root_degrees.shape)

    def product(self, u: Tensor) -> Tensor:
        return self.matrix @ u

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        return torch.addmm(v, self.matrix, u, beta=-1, alpha=2, out=v)


def symmetric_stencil(affinity: PairAffinity) -> Stencil:
    """The fastest operator for the device of the affinity."""
    device = affinity.values.device.type
    if device == "cpu":
        return SparseStencil(affinity)
    if device == "cuda" and importlib.util.find_spec("triton"):
        from .triton_stencil import TritonStencil

        return TritonStencil(affinity)
    return Stencil(affinity)
