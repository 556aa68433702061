"""Losses that teach a network the relations between pixels, from confident seeds.

Both papers compare all pairs of pixels in a small neighbourhood. Nothing here lists those pairs:
for one offset q - p at a time, all of its pairs are two shifted views of the same maps.

Sources: Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations" (IRNet), CVPR 2019, section 4; Ahn and Kwak, "Learning Pixel-level Semantic Affinity with
Image-level Supervision for Weakly Supervised Semantic Segmentation" (AffinityNet), CVPR 2018,
section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import half_disk, path_pixels

__all__ = ["affinitynet_losses", "irnet_losses"]

#: Keeps the logarithms and the means over pairs finite, as in both published codes.
EPSILON = 1e-5

#: Label of the pixels whose class nobody knows: they count neither in training nor in scores.
UNKNOWN = 255

#: What two seeds say about a pair: both background, the same class, different classes, nothing.
BG_POSITIVE, FG_POSITIVE, NEGATIVE, IGNORED = range(4)


def irnet_losses(
    boundary_logits: Tensor, displacement: Tensor, seeds: Tensor, radius: int = 10
) -> dict[str, Tensor]:
    """Losses of a class boundary map and a displacement field (IRNet).

    The affinity of a pair is 1 - the maximum of the boundary map on the path between its pixels.
    Pairs are (p, q) with q - p in :func:`~wsis_d2.layers.pairs.half_disk`, both seeds known, and
    the whole half disk of p inside the map.

    Memory is linear in the pixels: a few maps of the inputs' size, whatever the radius.

    Args:
        boundary_logits: (N, 1, H, W) float, logits of the boundary map. Half precision is
            computed in float32.
        displacement: (N, 2, H, W) float, (dy, dx) in pixels of the map.
        seeds: (N, H, W) uint8: 0 background, c + 1 for class c, 255 unknown.
        radius: pairs are closer than this, in pixels of the map.

    Returns:
        Scalars. ``loss_bg_pos`` and ``loss_fg_pos``: means of -log affinity over pairs of
        background and of one class; ``loss_neg``: mean of -log(1 - affinity) over pairs of
        different classes; ``loss_dp_fg``: mean of |D(p) - D(q) - (q - p)| over pairs of one class
        and both axes; ``loss_dp_bg``: mean of |D(p) - D(q)| over pairs of background; ``total``:
        bg_pos/4 + fg_pos/4 + neg/2 + dp_fg/2 + dp_bg/2. A mean over no pair is 0.

    Raises:
        ValueError: shapes do not match, or the map is too small to hold one half disk.
    """
    boundary_logits, displacement = map(_at_least_float32, (boundary_logits, displacement))
    seeds = torch.as_tensor(seeds)
    n, height, width = _seed_size(seeds)
    _check_shape("boundary_logits", boundary_logits, (n, 1, height, width))
    _check_shape("displacement", displacement, (n, 2, height, width))
    interior = _Interior.of_map(height, width, radius)

    boundary = boundary_logits.squeeze(1).sigmoid()
    # Two pixels of one instance point at the same centroid, two of the background have the same
    # displacement. A pair is either, never both: so one field serves both losses.
    foreground = _is_foreground(seeds).unsqueeze(1)
    aligned = displacement + foreground * _coordinates(displacement)

    peaks, signs = _compare_pairs(boundary, aligned, seeds, interior)

    # Every pair's affinity is that of the one pixel where its path peaks. So a sum over pairs is a
    # sum over pixels, weighted by how many paths peak there.
    num_pairs = peaks.sum(dim=(1, 2, 3))
    loss_bg_pos, loss_fg_pos, loss_neg = (
        _mean((peaks[kind] * loss).sum(), num_pairs[kind])
        for kind, loss in _log_losses(1 - boundary).items()
    )
    # Likewise |a - b| = s a - s b with s = sign(a - b).
    absolute = signs * aligned
    loss_dp_fg, loss_dp_bg = (
        _mean((absolute * mask).sum(), 2 * num_pairs[kind])
        for kind, mask in ((FG_POSITIVE, foreground), (BG_POSITIVE, ~foreground))
    )
    return {
        "loss_bg_pos": loss_bg_pos,
        "loss_fg_pos": loss_fg_pos,
        "loss_neg": loss_neg,
        "loss_dp_fg": loss_dp_fg,
        "loss_dp_bg": loss_dp_bg,
        "total": _affinity_loss(loss_bg_pos, loss_fg_pos, loss_neg) + (loss_dp_fg + loss_dp_bg) / 2,
    }


def affinitynet_losses(features: Tensor, seeds: Tensor, radius: int = 5) -> dict[str, Tensor]:
    """Losses of the semantic affinities of features (AffinityNet).

    The affinity of a pair is exp(-mean_c |f_p - f_q|); the pairs are those of
    :func:`irnet_losses`. Memory, besides the features and their gradient: some maps of one number
    per pair, and the features of one image.

    Args:
        features: (N, C, H, W) float. Half precision is computed in float32.
        seeds: (N, H, W) uint8: 0 background, c + 1 for class c, 255 unknown.
        radius: pairs are closer than this, in pixels of the map.

    Returns:
        Scalars ``loss_bg_pos``, ``loss_fg_pos``, ``loss_neg`` as in :func:`irnet_losses`, and
        ``total``: bg_pos/4 + fg_pos/4 + neg/2.

    Raises:
        ValueError: shapes do not match, or the map is too small to hold one half disk.
    """
    features, seeds = _at_least_float32(features), torch.as_tensor(seeds)
    n, height, width = _seed_size(seeds)
    _check_shape("features", features, (n, None, height, width))
    interior = _Interior.of_map(height, width, radius)

    kinds_of_pairs = _PairKinds(seeds, interior)
    kinds = torch.stack([kinds_of_pairs(dy, dx) for dy, dx in interior.offsets], dim=1)
    affinity = torch.exp(-_PairDistances.apply(features, interior))
    loss_bg_pos, loss_fg_pos, loss_neg = (
        _mean((loss * (kinds == kind)).sum(), (kinds == kind).sum())
        for kind, loss in _log_losses(affinity).items()
    )
    return {
        "loss_bg_pos": loss_bg_pos,
        "loss_fg_pos": loss_fg_pos,
        "loss_neg": loss_neg,
        "total": _affinity_loss(loss_bg_pos, loss_fg_pos, loss_neg),
    }


def _log_losses(affinity: Tensor) -> dict[int, Tensor]:
    """The loss of an affinity if it is that of a pair of each kind."""
    positive = -torch.log(affinity + EPSILON)
    negative = -torch.log(1 + EPSILON - affinity)
    return {BG_POSITIVE: positive, FG_POSITIVE: positive, NEGATIVE: negative}


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return total / (count.to(total.dtype) + EPSILON)


def _affinity_loss(loss_bg_pos: Tensor, loss_fg_pos: Tensor, loss_neg: Tensor) -> Tensor:
    return loss_bg_pos / 4 + loss_fg_pos / 4 + loss_neg / 2


@dataclass(frozen=True)
class _Interior:
    """The pixels p whose whole half disk of neighbours lies inside the map."""

    radius: int
    num_rows: int
    num_columns: int

    @classmethod
    def of_map(cls, height: int, width: int, radius: int) -> _Interior:
        num_rows, num_columns = height - radius + 1, width - 2 * radius + 2
        if num_rows < 1 or num_columns < 1:
            raise ValueError(
                f"maps of {height} x {width} hold no half disk of radius {radius}: they must be "
                f"at least {radius} high and {2 * radius - 1} wide"
            )
        return cls(radius, num_rows, num_columns)

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        return half_disk(self.radius)

    def view(self, maps: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        """The values of (..., H, W) maps at p + (dy, dx), for every p: (..., rows, columns)."""
        left = self.radius - 1 + dx
        return maps[..., dy : dy + self.num_rows, left : left + self.num_columns]


class _PairKinds:
    """Kinds of all pairs of one offset, from the seeds."""

    def __init__(self, seeds: Tensor, interior: _Interior):
        self.seeds = seeds
        self.interior = interior
        #: The kind of a pixel's pair with one of its own seed.
        self.own_kind = (seeds > 0).to(torch.uint8).masked_fill(seeds == UNKNOWN, IGNORED)

    def __call__(self, dy: int, dx: int) -> Tensor:
        """(N, rows, columns) uint8, the kinds of the pairs (p, p + (dy, dx))."""
        view = self.interior.view
        differ = (view(self.seeds) != view(self.seeds, dy, dx)).to(torch.uint8)
        # The kinds are in the order in which they override each other.
        own_kinds = torch.maximum(view(self.own_kind), view(self.own_kind, dy, dx))
        return torch.maximum(own_kinds, NEGATIVE * differ)


@torch.no_grad()
def _compare_pairs(
    boundary: Tensor, field: Tensor, seeds: Tensor, interior: _Interior
) -> tuple[Tensor, Tensor]:
    """Go through all pairs, one offset at a time.

    Args:
        boundary: (N, H, W) float, boundary map.
        field: (N, 2, H, W) float, what the pixels of a positive pair should agree on.

    Returns:
        peaks: (3, N, H, W) int32, for each kind of pair: at how many paths' maximum a pixel is. Of
            several maxima on a path only the first in ``path_pixels`` counts.
        signs: as the field, the derivative of the sum of |field(p) - field(q)| over positive pairs.
    """
    kinds_of_pairs = _PairKinds(seeds, interior)
    view = interior.view
    num_pixels = boundary.numel()
    ranks = {to_the_right: _ranks(boundary, to_the_right) for to_the_right in (False, True)}
    # By rank, so that the highest rank on a path is itself the index to count at.
    counts = {side: boundary.new_zeros(4 * num_pixels, dtype=torch.int32) for side in ranks}
    one = boundary.new_ones(1, dtype=torch.int32)
    signs = torch.zeros_like(field)
    for dy, dx in interior.offsets:
        kinds = kinds_of_pairs(dy, dx)

        side = dx >= 0
        highest = reduce(torch.maximum, (view(ranks[side], y, x) for y, x in path_pixels(dy, dx)))
        index = torch.add(highest, kinds, alpha=num_pixels).flatten().long()
        counts[side].scatter_add_(0, index, one.expand_as(index))

        sign = (view(field) - view(field, dy, dx)).sign_()
        sign *= (kinds < NEGATIVE).unsqueeze(1)
        view(signs).add_(sign)
        view(signs, dy, dx).sub_(sign)
    peaks = sum(
        counts[side].view(4, num_pixels)[:IGNORED, ranks[side].flatten().long()] for side in ranks
    )
    return peaks.view(3, *boundary.shape), signs


def _ranks(boundary: Tensor, to_the_right: bool) -> Tensor:
    """Ranks of the pixels of each map by their value: (N, H, W) int32, image n from n H W.

    Ranks, unlike values, tell which pixel a maximum came from. Of equal values the one that comes
    first on paths to the right (or left) has the higher rank: it is farther down that way, and
    higher up among those that are as far.
    """
    n, height, width = boundary.shape
    rows = torch.arange(height, device=boundary.device)[:, None]
    columns = torch.arange(width, device=boundary.device)
    distance = rows + columns if to_the_right else rows - columns
    last_to_first = (distance * height - rows).flatten().argsort()

    ascending = boundary.flatten(1)[:, last_to_first].argsort(dim=1, stable=True)
    pixels = last_to_first[ascending]
    indices = torch.arange(boundary.numel(), dtype=torch.int32, device=boundary.device)
    ranks = torch.empty_like(pixels, dtype=torch.int32)
    return ranks.scatter_(1, pixels, indices.view_as(pixels)).view(n, height, width)


class _PairDistances(torch.autograd.Function):
    """mean_c |f_p - f_q| of (N, C, H, W) features: (N, offsets, rows, columns).

    One image and offset at a time, which is small enough for the caches of a CPU. The backward
    pass does so once more rather than keep the signs of all the differences.
    """

    @staticmethod
    def forward(ctx, features: Tensor, interior: _Interior) -> Tensor:
        ctx.save_for_backward(features)
        ctx.interior = interior
        size = (interior.num_rows, interior.num_columns)
        distances = features.new_empty((len(features), len(interior.offsets), *size))
        for image, of_image in zip(features, distances):
            for offset, distance in zip(interior.offsets, of_image):
                difference = interior.view(image) - interior.view(image, *offset)
                torch.mean(difference.abs_(), dim=0, out=distance)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_distances: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        view, offsets = ctx.interior.view, ctx.interior.offsets
        grad_distances = grad_distances / features.shape[1]
        grad_features = torch.zeros_like(features)
        for image, grad, of_image in zip(features, grad_features, grad_distances):
            for offset, grad_distance in zip(offsets, of_image):
                pull = (view(image) - view(image, *offset)).sign_()
                pull *= grad_distance
                view(grad).add_(pull)
                view(grad, *offset).sub_(pull)
        return grad_features, None


def _coordinates(maps: Tensor) -> Tensor:
    """(2, H, W) of the maps' type: y and x of each pixel."""
    height, width = maps.shape[-2:]
    grid = (torch.arange(n, dtype=maps.dtype, device=maps.device) for n in (height, width))
    return torch.stack(torch.meshgrid(*grid, indexing="ij"))


def _is_foreground(seeds: Tensor) -> Tensor:
    return (seeds > 0) & (seeds != UNKNOWN)


def _at_least_float32(maps: Tensor) -> Tensor:
    maps = torch.as_tensor(maps)
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _seed_size(seeds: Tensor) -> tuple[int, int, int]:
    if seeds.dim() != 3:
        raise ValueError(f"seeds must be (N, H, W), got {tuple(seeds.shape)}")
    return tuple(seeds.shape)


def _check_shape(name: str, maps: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise unless the sizes agree; None stands for any size."""
    if len(shape) != maps.dim() or any(b not in (a, None) for a, b in zip(maps.shape, shape)):
        wanted = ", ".join("C" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be ({wanted}) to match the seeds, got {tuple(maps.shape)}")
