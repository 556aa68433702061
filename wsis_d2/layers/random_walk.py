"""Random walks between pixels, without the matrix of all pairs of pixels.

Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for
Weakly Supervised Semantic Segmentation", CVPR 2018, section 3.3; Ahn, Cho and Kwak, "Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, section 4.3.

The transition matrix T = A D^-1 is similar to the symmetric D^-1/2 A D^-1/2, and its eigenvalues
lie in [-1, 1]. There, s^t is a Chebyshev series with positive coefficients that sum to 1 and fall
off like a Gaussian of variance t: some sqrt(2 t ln(2 / tolerance)) products with T stand for t.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .affinity import PairAffinity, stack_affinities
from .stencil import SparseStencil, Stencil

__all__ = ["chebyshev_coefficients", "random_walk"]

_METHODS = ("auto", "chebyshev", "power", "dense")

#: Cells of all maps that walk together: 16 MB of float32, a few times. An image that falls into
#: thousands of instances has them walk one group after the other.
_CELLS_AT_ONCE = 2**22


@torch.no_grad()
def random_walk(
    x: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
    affinity: PairAffinity | Sequence[PairAffinity],
    beta: float = 10.0,
    num_steps: int = 256,
    method: str = "auto",
    tolerance: float = 1e-4,
) -> Tensor | list[Tensor]:
    """Spread maps over an image along high affinities: x T^t, T = A D^-1, t = ``num_steps``.

    A is the affinity to the power ``beta``, with 1 on the diagonal, and D holds its column sums.
    Memory and the time of a product are linear in the number of pixels, of pairs and of maps.

    Lists of maps and affinities give a list of results, the same as one by one. On a GPU they
    walk together, as one tall map, with every kernel running for all of them.

    Accuracy: the truncated series is off by at most ``tolerance`` times x, both in the norm
    sqrt(sum_p D(p) x(p)^2). A map that starts on few pixels ends small everywhere, and the error is
    that much larger beside it. At 256 steps on a map of 64 x 80, that was 6e-4 of the result's
    maximum for maps that cover regions; for a single pixel in each map it took 1e-7 (84 products
    instead of 62) to get there. Rounding in float32 adds some 5e-5.

    Args:
        x: (K, H, W) real, or a list of such maps, each of its own size.
        affinity: the affinity of pixels of this map, or one for each.
        beta: positive; the higher, the less the walk crosses weak boundaries.
        num_steps: t, at least 0.
        method: "chebyshev"; "power": t products; "dense": T itself, squared again and again, for
            reference, with memory for a few matrices (H * W, H * W); "auto": the cheaper one of
            the first two.
        tolerance: of the Chebyshev series; 0 for all its t terms.

    Returns:
        (K, H, W), float64 where x or the affinity is, else float32; without gradient. A list for
        lists.

    Raises:
        ValueError: shapes that do not match, or an argument out of its range.
    """
    if method not in _METHODS:
        raise ValueError(f"the method of a random walk is one of {_METHODS}, got {method!r}")
    if beta <= 0 or num_steps < 0 or tolerance < 0:
        raise ValueError(
            "a random walk takes beta > 0, num_steps >= 0 and tolerance >= 0, "
            f"got {beta}, {num_steps} and {tolerance}"
        )
    if isinstance(affinity, PairAffinity):
        return _walk([x], [affinity], beta, num_steps, method, tolerance)[0]
    if len(x) != len(affinity):
        raise ValueError(f"{len(x)} maps cannot walk on {len(affinity)} affinities")
    return _walk(list(x), list(affinity), beta, num_steps, method, tolerance)


def chebyshev_coefficients(num_steps: int, tolerance: float) -> list[float]:
    """Coefficients c_k of s^t = sum_k c_k T_k(s), t = ``num_steps``, up to the degree needed.

    c_k = 2^(1 - t) C(t, (t - k) / 2) where t - k is even, else 0; c_0 is half of that. They sum
    to 1, and |T_k| <= 1, so what the coefficients left out sum to bounds the error on [-1, 1].

    Returns:
        c_0 .. c_n in float64, n the least degree whose error is at most ``tolerance``.
    """
    k = torch.arange(num_steps % 2, num_steps + 1, 2, dtype=torch.float64)
    log_binomial = (
        math.lgamma(num_steps + 1)
        - torch.lgamma((num_steps - k) / 2 + 1)
        - torch.lgamma((num_steps + k) / 2 + 1)
    )
    terms = torch.exp(log_binomial + (1 - num_steps) * math.log(2))
    if num_steps % 2 == 0:
        terms[0] /= 2
    left_out = F.pad(terms.flip(0).cumsum(0).flip(0)[1:], (0, 1))
    coefficients = torch.zeros(num_steps + 1, dtype=torch.float64)
    coefficients[num_steps % 2 :: 2] = terms
    # left_out falls, so this counts the terms before the last one needed.
    degree = num_steps % 2 + 2 * int((left_out > tolerance).sum())
    return coefficients[: degree + 1].tolist()


def _walk(
    xs: list[Tensor | np.ndarray],
    affinities: list[PairAffinity],
    beta: float,
    num_steps: int,
    method: str,
    tolerance: float,
) -> list[Tensor]:
    pairs = [_matching(x, affinity) for x, affinity in zip(xs, affinities)]
    if not pairs:
        return []
    device = pairs[0][0].device
    with torch.autocast(device.type, enabled=False):
        if method == "dense":
            return [_dense_walk(x, affinity.pow(beta), num_steps) for x, affinity in pairs]
        coefficients = chebyshev_coefficients(num_steps, tolerance)
        if method == "power" or (method == "auto" and len(coefficients) > num_steps):
            coefficients = None
        # A GPU likes one large kernel; a CPU does not like the padding.
        if device.type == "cpu" or len(pairs) == 1:
            return [_stencil_walk(x, a.pow(beta), num_steps, coefficients) for x, a in pairs]
        tall, affinity = _stack(pairs)
        results = _stencil_walk(tall, affinity.pow(beta), num_steps, coefficients)
        return _unstack(results, pairs)


def _stack(pairs: list[tuple[Tensor, PairAffinity]]) -> tuple[Tensor, PairAffinity]:
    """All maps as one tall map: below each other, with as many channels and columns as any."""
    num_maps, width = (max(x.shape[i] for x, _ in pairs) for i in (0, 2))
    padded = [F.pad(x, (0, width - x.shape[2], 0, 0, 0, num_maps - len(x))) for x, _ in pairs]
    return torch.cat(padded, dim=1), stack_affinities([affinity for _, affinity in pairs])


def _unstack(tall: Tensor, pairs: list[tuple[Tensor, PairAffinity]]) -> list[Tensor]:
    """The maps of :func:`_stack` again, from results on the tall map."""
    parts = tall.split([x.shape[1] for x, _ in pairs], dim=1)
    return [part[: len(x), :, : x.shape[2]] for part, (x, _) in zip(parts, pairs)]


def _matching(x: Tensor | np.ndarray, affinity: PairAffinity) -> tuple[Tensor, PairAffinity]:
    """Both on the device of x, with one dtype: float32 or float64."""
    x = torch.as_tensor(x)
    if x.dim() != 3 or x.shape[1:] != affinity.shape:
        raise ValueError(
            f"maps (K, {affinity.shape[0]}, {affinity.shape[1]}) can walk on this affinity, "
            f"got {tuple(x.shape)}"
        )
    double = torch.float64 in (x.dtype, affinity.values.dtype)
    dtype = torch.float64 if double else torch.float32
    return x.to(dtype), affinity.to(x.device, dtype)


def _dense_walk(x: Tensor, affinity: PairAffinity, num_steps: int) -> Tensor:
    matrix = affinity.dense()
    transition = torch.linalg.matrix_power(matrix / matrix.sum(0), num_steps)
    return (x.flatten(1) @ transition).view_as(x)


def _stencil_walk(
    x: Tensor, affinity: PairAffinity, num_steps: int, coefficients: list[float] | None
) -> Tensor:
    """x T^t, T^t by its series or, without coefficients, step by step."""
    stencil = _fastest_stencil(affinity)
    results = []
    for maps in x.split(_maps_at_once(x)):
        u = stencil.pack(maps)
        if coefficients is None:
            for _ in range(num_steps):
                u = stencil.product(u)
        else:
            u = _chebyshev_series(stencil, u, coefficients)
        results.append(stencil.unpack(u, len(maps)))
    return results[0] if len(results) == 1 else torch.cat(results)


def _maps_at_once(x: Tensor) -> int:
    """A multiple of 16, so that the stencils' vectors of maps are full."""
    num_cells = max(1, x.shape[1] * x.shape[2])
    return max(1, _CELLS_AT_ONCE // num_cells // 16) * 16


def _fastest_stencil(affinity: PairAffinity) -> Stencil:
    """The one for the device of the affinity."""
    device = affinity.values.device.type
    if device == "cpu":
        return SparseStencil(affinity)
    if device == "cuda" and importlib.util.find_spec("triton"):
        from .triton_stencil import TritonStencil

        return TritonStencil(affinity)
    return Stencil(affinity)


def _chebyshev_series(stencil: Stencil, u: Tensor, coefficients: list[float]) -> Tensor:
    """sum_k c_k u_k, with u_0 = u, u_1 = u T, u_{k+1} = 2 u_k T - u_{k-1}."""
    total = coefficients[0] * u
    if len(coefficients) == 1:
        return total
    previous, current = u, stencil.product(u)
    total.add_(current, alpha=coefficients[1])
    for coefficient in coefficients[2:]:
        previous, current = current, stencil.recur(current, previous)
        if coefficient:  # half of them are 0
            total.add_(current, alpha=coefficient)
    return total
