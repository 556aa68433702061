"""Floors: the least time that a stage could take on this machine.

A stage that needs some operations and has to move some bytes takes at least as long as a plain
matrix product with as many operations, and as a plain copy of as many bytes; both rates are
measured in the same run. Real stages stay above it: not all work is multiplications side by side,
and what is moved twice is counted once. The best of them, large convolutions, may end a few percent
below where their library is better than that of matrix products.

What counts as work:

* Networks: the operations of their convolutions and matrix products, forward and backward, as
  PyTorch's flop counter has them; each of these reads its operands and writes its result once, and
  all else is thought of as fused into them. Convolutions that a GPU runs in TF32 may beat the
  matrix product, which is in full float32.
* All else: its inputs are read and its results are written once; operations by the formulas here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..layers import CRFSettings
from ..layers.pairs import half_disk, path_pixels
from ..layers.random_walk import chebyshev_coefficients
from .measure import fastest_seconds, is_cuda
from .stages import Work

# Sides of the matrices, and bytes of a copy that no cache holds: on a GPU, and elsewhere.
_PRODUCT_SIDE = {True: 8192, False: 1024}
_COPY_BYTES = {True: 1 << 30, False: 1 << 28}


def plain_product(
    quick: bool = False, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Callable[[], Tensor]:
    """A function that multiplies two large square matrices; with ``quick`` small ones."""
    side = _product_side(quick, device)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def plain_copy(quick: bool = False, device: str = "cpu") -> Callable[[], Tensor]:
    """A function that copies a tensor that no cache holds; with ``quick`` a small one."""
    source = torch.ones(_copy_bytes(quick, device) // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _product_side(quick: bool, device: str) -> int:
    return 128 if quick else _PRODUCT_SIDE[is_cuda(device)]


def _copy_bytes(quick: bool, device: str) -> int:
    return 1 << 16 if quick else _COPY_BYTES[is_cuda(device)]


class Machine:
    """What this machine reaches, measured when it is first asked for.

    Args:
        quick: measure with tiny matrices and copies, which say little.
    """

    def __init__(self, quick: bool = False):
        self.quick = quick
        #: Of each figure's name: its work, and the seconds that it took.
        self.measured: dict[str, tuple[float, float]] = {}

    def flops_per_second(self, device: str, dtype: torch.dtype) -> float:
        """Of a product of two large square matrices."""
        side = _product_side(self.quick, device)
        kind = str(dtype).removeprefix("torch.")
        prepare = partial(plain_product, self.quick, device, dtype)
        return self._rate(f"matrix product, {kind}, {device}", 2 * side**3, prepare, device)

    def bytes_per_second(self, device: str) -> float:
        """Of a copy of a large tensor: bytes read and bytes written."""
        size = _copy_bytes(self.quick, device)
        return self._rate(
            f"copy, {device}", 2 * size, partial(plain_copy, self.quick, device), device
        )

    def floor_seconds(self, work: Work, device: str) -> float:
        """The least time of some work, see above."""
        arithmetic = sum(n / self.flops_per_second(device, t) for t, n in work.flops.items())
        return max(arithmetic, work.bytes / self.bytes_per_second(device))

    def figures(self) -> list[dict]:
        """One dict of each rate so far: ``name``, ``seconds`` and ``giga_per_second``."""
        return [
            {"name": name, "seconds": seconds, "giga_per_second": work / seconds / 1e9}
            for name, (work, seconds) in self.measured.items()
        ]

    def _rate(self, name: str, work: float, prepare: Callable, device: str) -> float:
        if name not in self.measured:
            self.measured[name] = (work, fastest_seconds(prepare(), device))
        work, seconds = self.measured[name]
        return work / seconds


def count_work(run: Callable[[Any], Any], x: Any) -> Work:
    """The work of a network's run on ``x``: run and counted."""
    with _WorkCounter() as counter:
        run(x)
    return Work(dict(counter.flops), counter.bytes)


class _WorkCounter(TorchDispatchMode):
    """PyTorch's flop counts, by precision, and bytes of what the counted operations take and give.

    PyTorch's own FlopCounterMode does the former, but hangs hooks on modules that autograd.grad
    with respect to the image does not stand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[torch.dtype, float] = defaultdict(float)
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            arrays = [a for a in tree_leaves((args, kwargs, result)) if isinstance(a, Tensor)]
            self.flops[arrays[0].dtype] += formula(*args, **kwargs, out_val=result)
            self.bytes += sum(array.nbytes for array in arrays)
        return result


def _convolution_backward_flops(
    grad_output, input, weight, _bias, _stride, _padding, _dilation, transposed, *rest, out_val
) -> float:
    """Each of the two gradients takes as much as the forward pass.

    PyTorch's own formula takes a depthwise convolution for a dense one.
    """
    cells = (input if transposed else grad_output)[0, 0].numel()
    num_gradients = sum(rest[-1][:2])
    return 2.0 * len(input) * cells * weight.numel() * num_gradients


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward_flops}


def traffic(*values: Any) -> Work:
    """The work of what only has to read and write arrays (tensors, also in lists)."""
    return Work({}, sum(array.nbytes for array in tree_leaves(values)))


def affinity_work(height: int, width: int, radius: int) -> Work:
    """:func:`wsis_d2.layers.boundary_affinity`: a maximum over the path of each pair."""
    offsets = half_disk(radius)
    cells = height * width
    steps = sum(len(path_pixels(*offset)) for offset in offsets)
    return Work({torch.float32: cells * steps}, 4 * cells * (1 + len(offsets)))


def walk_work(
    num_maps: int, height: int, width: int, radius: int, num_steps: int, tolerance: float
) -> Work:
    """:func:`wsis_d2.layers.random_walk`: products of the Chebyshev series with the stencil.

    Each takes both ends of all pairs and the pixel itself, and two further terms of the recurrence
    and the sum. The affinity, the maps and the result are moved once.
    """
    num_pairs = len(half_disk(radius))
    products = len(chebyshev_coefficients(num_steps, tolerance)) - 1
    cells = height * width
    flops = products * cells * num_maps * 2 * (2 * num_pairs + 1 + 2)
    return Work({torch.float32: flops}, 4 * cells * (num_pairs + 2 * num_maps))


def crf_work(height: int, width: int, num_labels: int, settings: CRFSettings) -> Work:
    """One inference of the dense CRF by filtering on permutohedral lattices.

    The lattice of a kernel in d dimensions has d + 1 corners around each pixel, whose weights and
    indices (8 bytes) are kept. In each iteration every pixel adds its labels to the corners and
    takes them back from there, and every label has an exponential (10 operations) and the sum. The
    blur between the corners, whose number depends on the image, and the making of the lattices
    are left out.
    """
    corners = (2 + 1) + (5 + 1)  # smoothness: positions; appearance: colours too
    pixels = height * width
    flops = settings.num_iters * pixels * num_labels * (2 * 2 * corners + 10)
    moved = settings.num_iters * pixels * (2 * 8 * corners + 2 * 4 * num_labels)
    return Work({torch.float32: flops}, moved)


def product_work(rows: int, inner: int, columns: int, count: int = 1) -> Work:
    """``count`` products (rows, inner) x (inner, columns) in float32."""
    moved = 4 * (rows * inner + inner * columns + rows * columns)
    return Work({torch.float32: 2.0 * count * rows * inner * columns}, count * moved)
