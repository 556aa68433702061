"""Products with a symmetric stencil matrix on a GPU: one kernel each, written in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .affinity import PairAffinity
from .stencil import Stencil

__all__ = ["TritonStencil"]

_PIXELS_PER_PROGRAM = 128
_CHANNELS_PER_PROGRAM = 4


class TritonStencil(Stencil):
    """All pairs in one kernel: each weight is read once for several channels, from both its ends.

    Vectors are (K, N): a warp reads neighbouring pixels. Sums run in float32, or in float64 where
    that is the dtype.
    """

    def __init__(self, affinity: PairAffinity):
        super().__init__(affinity)
        self.device_shifts = torch.tensor(
            self.shifts, dtype=torch.int32, device=self.weights.device
        )

    def product(self, u: Tensor) -> Tensor:
        return self._launch(u, u, torch.empty_like(u), 1.0, 0.0)

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        return self._launch(u, v, v, 2.0, -1.0)

    def _launch(self, u: Tensor, v: Tensor, out: Tensor, alpha: float, beta: float) -> Tensor:
        num_channels, num_pixels = u.shape
        grid = (
            triton.cdiv(num_pixels, _PIXELS_PER_PROGRAM),
            triton.cdiv(num_channels, _CHANNELS_PER_PROGRAM),
        )
        _stencil_kernel[grid](
            u,
            v,
            out,
            self.weights,
            self.diagonal,
            self.device_shifts,
            num_channels,
            num_pixels,
            len(self.shifts),
            alpha,
            beta,
            PIXELS=_PIXELS_PER_PROGRAM,
            CHANNELS=_CHANNELS_PER_PROGRAM,
        )
        return out


@triton.jit
def _stencil_kernel(
    u_ptr,  # (K, N)
    v_ptr,  # (K, N)
    out_ptr,  # (K, N): alpha * S u + beta * v; may be v
    weights_ptr,  # (D, N)
    diagonal_ptr,  # (N,)
    shifts_ptr,  # (D,) int32, positive
    num_channels,
    num_pixels,
    num_pairs,
    alpha,
    beta,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = pixels < num_pixels
    real = (channels < num_channels)[:, None]
    rows = channels[:, None].to(tl.int64) * num_pixels

    here = rows + pixels[None, :]
    center = tl.load(u_ptr + here, mask=real & inside[None, :], other=0.0)
    total = center * tl.load(diagonal_ptr + pixels, mask=inside, other=0.0)[None, :]
    for pair in range(num_pairs):
        shift = tl.load(shifts_ptr + pair)
        weights = weights_ptr + pair * num_pixels
        after, before = pixels + shift, pixels - shift
        has_after, has_before = after < num_pixels, inside & (before >= 0)
        weight_after = tl.load(weights + pixels, mask=has_after, other=0.0)
        weight_before = tl.load(weights + before, mask=has_before, other=0.0)
        u_after = tl.load(u_ptr + rows + after[None, :], mask=real & has_after[None, :], other=0.0)
        u_before = tl.load(
            u_ptr + rows + before[None, :], mask=real & has_before[None, :], other=0.0
        )
        total += weight_after[None, :] * u_after + weight_before[None, :] * u_before
    v = tl.load(v_ptr + here, mask=real & inside[None, :], other=0.0)
    tl.store(out_ptr + here, alpha * total + beta * v, mask=real & inside[None, :])
