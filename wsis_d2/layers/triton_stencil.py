"""Steps of a random walk on a GPU: one kernel each, written in Triton."""

from __future__ import annotations

import logging

import torch
import triton
import triton.language as tl
from torch import Tensor

from .affinity import PairAffinity
from .stencil import Stencil

__all__ = ["TritonStencil"]

logger = logging.getLogger(__name__)

_PIXELS_PER_PROGRAM = 128
_MAPS_PER_PROGRAM = 4


class TritonStencil(Stencil):
    """All neighbours in one kernel; each affinity that it reads serves several of the K maps.

    u is (K, N): the threads of a warp read neighbouring pixels. Sums run in the dtype of u.

    Triton builds the kernel at its first launch, with the machine's C compiler. Where that fails,
    all stencils of the process compute as the plain one does, which has the same layout.
    """

    #: None may start the kernel any more: it failed once.
    _kernel_failed = False

    def __init__(self, affinity: PairAffinity):
        super().__init__(affinity)
        self.shifts_on_device = torch.tensor(
            self.shifts, dtype=torch.int32, device=affinity.values.device
        )

    def product(self, u: Tensor) -> Tensor:
        out = torch.empty_like(u)
        return out if self._launch(u, u, out, 1.0, 0.0) else super().product(u)

    def recur(self, u: Tensor, v: Tensor) -> Tensor:
        return v if self._launch(u, v, v, 2.0, -1.0) else super().recur(u, v)

    def _launch(self, u: Tensor, v: Tensor, out: Tensor, alpha: float, beta: float) -> bool:
        """Start the kernel, see there; False, and ``out`` as it was, where Triton cannot."""
        if TritonStencil._kernel_failed:
            return False
        try:
            self._start_kernel(u, v, out, alpha, beta)
        except Exception as error:  # of Triton, of the C compiler, of the linker ...
            TritonStencil._kernel_failed = True
            logger.warning(
                "Triton cannot run the kernel of random walks here "
                f"({type(error).__name__}: {error}): they take PyTorch's operations, which are "
                "slower; install a C compiler (gcc), or set CC to one"
            )
            return False
        return True

    def _start_kernel(self, u: Tensor, v: Tensor, out: Tensor, alpha: float, beta: float) -> None:
        num_maps, num_pixels = u.shape
        grid = (
            triton.cdiv(num_pixels, _PIXELS_PER_PROGRAM),
            triton.cdiv(num_maps, _MAPS_PER_PROGRAM),
        )
        with torch.cuda.device_of(u):
            _stencil_kernel[grid](
                u,
                v,
                out,
                self.weights,
                self.inverse_degrees,
                self.shifts_on_device,
                num_maps,
                num_pixels,
                len(self.shifts),
                alpha,
                beta,
                PIXELS=_PIXELS_PER_PROGRAM,
                MAPS=_MAPS_PER_PROGRAM,
            )


@triton.jit
def _stencil_kernel(
    u_ptr,  # (K, N)
    v_ptr,  # (K, N)
    out_ptr,  # (K, N): alpha * u A D^-1 + beta * v; may be v
    weights_ptr,  # (D, N)
    inverse_degrees_ptr,  # (N,)
    shifts_ptr,  # (D,) int32, positive
    num_maps,
    num_pixels,
    num_pairs,
    alpha,
    beta,
    PIXELS: tl.constexpr,
    MAPS: tl.constexpr,
):
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    maps = tl.program_id(1) * MAPS + tl.arange(0, MAPS)
    inside = pixels < num_pixels
    real = (maps < num_maps)[:, None]
    rows = maps[:, None].to(tl.int64) * num_pixels

    here = rows + pixels[None, :]
    total = tl.load(u_ptr + here, mask=real & inside[None, :], other=0.0)
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
    total *= tl.load(inverse_degrees_ptr + pixels, mask=inside, other=0.0)[None, :]
    v = tl.load(v_ptr + here, mask=real & inside[None, :], other=0.0)
    tl.store(out_ptr + here, alpha * total + beta * v, mask=real & inside[None, :])
