"""IRNet's losses beside the formulation with index tables: time and memory in one run."""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import irnet_losses
from ..layers.pairs import half_disk, path_pixels
from .measure import compare, in_fresh_process, peak_megabytes

LOSSES = ("loss_bg_pos", "loss_fg_pos", "loss_neg", "loss_dp_fg", "loss_dp_bg", "total")


def loss_benchmarks(
    device: str = "cpu", size: int = 128, radius: int = 10, batch: int = 2
) -> list[dict]:
    """Forward and backward pass of the losses; the defaults are the published training's maps.

    Returns:
        What :func:`~wsis_d2.benchmarks.run_benchmarks` gives, with ``peak_megabytes`` and
        ``baseline_peak_megabytes``: at the peak, beyond those of the inputs (NaN where the system
        does not tell).
    """
    logits, displacement, seeds = _random_inputs(device, size, batch)
    ours, tables = (make(radius, seeds) for make in (_ViewLosses, _TableLosses))
    figures, _ = compare(
        lambda: _step(ours, logits, displacement),
        lambda: _step(tables, logits, displacement),
        device,
    )
    peak, baseline_peak = (
        in_fresh_process(_peak_of_a_step, make, device, size, radius, batch)
        for make in (_ViewLosses, _TableLosses)
    )
    name = f"IRNet losses and gradients, {batch} x {size} x {size}, radius {radius}, {device}"
    peaks = {"peak_megabytes": peak, "baseline_peak_megabytes": baseline_peak}
    return [{"name": name, **figures, **peaks}]


class _ViewLosses:
    """The plugin's losses."""

    def __init__(self, radius: int, seeds: Tensor):
        self.radius, self.seeds = radius, seeds

    def __call__(self, boundary_logits: Tensor, displacement: Tensor) -> dict[str, Tensor]:
        return irnet_losses(boundary_logits, displacement, self.seeds, self.radius)


class _TableLosses:
    """As the published code has them: tables of all pixels of all paths, one per path length.

    The tables and the kinds of the pairs are made here, outside of the timing: a training makes
    the former once, and the latter in its data loader.
    """

    def __init__(self, radius: int, seeds: Tensor):
        _, height, width = seeds.shape
        indices = torch.arange(height * width, device=seeds.device).view(height, width)
        rows, columns = height - radius + 1, width - 2 * radius + 2

        def shifted(y: int, x: int) -> Tensor:
            return indices[y : y + rows, radius - 1 + x : radius - 1 + x + columns].flatten()

        paths_of_length = defaultdict(list)
        for offset in half_disk(radius):
            path = path_pixels(*offset)
            paths_of_length[len(path)].append((offset, path))
        groups = [group for _, group in sorted(paths_of_length.items())]
        self.tables = [
            torch.stack([torch.stack([shifted(*k) for k in path]) for _, path in group])
            for group in groups
        ]
        offsets = [offset for group in groups for offset, _ in group]
        self.offsets = torch.tensor(offsets, device=seeds.device).T[:, :, None]
        self.here = shifted(0, 0)
        self.there = torch.stack([shifted(*offset) for offset in offsets])

        p, q = seeds.flatten(1)[:, None, self.here], seeds.flatten(1)[:, self.there]
        known = (p != 255) & (q != 255)
        self.bg_pairs = (known & (p == q) & (p == 0)).float()
        self.fg_pairs = (known & (p == q) & (p > 0)).float()
        self.negative_pairs = (known & (p != q)).float()

    def __call__(self, boundary_logits: Tensor, displacement: Tensor) -> dict[str, Tensor]:
        boundary = boundary_logits.sigmoid().flatten(1)
        affinities = []
        for table in self.tables:
            values = boundary.index_select(1, table.flatten()).view(-1, *table.shape)
            affinities.append(1 - F.max_pool2d(values, (table.shape[1], 1)).squeeze(2))
        affinity = torch.cat(affinities, dim=1)
        positive = -torch.log(affinity + 1e-5)
        negative = -torch.log(1 + 1e-5 - affinity)

        field = displacement.flatten(2)
        difference = field[:, :, None, self.here] - field[:, :, self.there]
        error = (difference - self.offsets).abs()
        losses = {
            "loss_bg_pos": _mean(positive, self.bg_pairs),
            "loss_fg_pos": _mean(positive, self.fg_pairs),
            "loss_neg": _mean(negative, self.negative_pairs),
            "loss_dp_fg": _mean(error, self.fg_pairs[:, None].expand_as(error)),
            "loss_dp_bg": _mean(difference.abs(), self.bg_pairs[:, None].expand_as(error)),
        }
        bg, fg, neg, dp_fg, dp_bg = losses.values()
        return {**losses, "total": (bg / 2 + fg / 2 + neg) / 2 + (dp_fg + dp_bg) / 2}


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / (weights.sum() + 1e-5)


def _random_inputs(device: str, size: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and displacements of noise, and seeds in patches, a quarter of each kind."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 1, size, size, generator=g).to(device)
    displacement = torch.randn(batch, 2, size, size, generator=g).to(device) * 3
    patches = torch.randint(4, (batch, 1, size // 8 + 1, size // 8 + 1), generator=g)
    patches = F.interpolate(patches.float(), scale_factor=8)[:, 0, :size, :size]
    seeds = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[patches.long()].to(device)
    return logits.requires_grad_(), displacement.requires_grad_(), seeds


def _step(losses: _ViewLosses | _TableLosses, logits: Tensor, displacement: Tensor) -> Tensor:
    """Losses and gradients of one training step, in one vector."""
    results = losses(logits, displacement)
    gradients = torch.autograd.grad(results["total"], (logits, displacement))
    values = torch.stack([results[name].detach() for name in LOSSES])
    return torch.cat([values, *(gradient.flatten() for gradient in gradients)])


def _peak_of_a_step(make: type, device: str, size: int, radius: int, batch: int) -> float:
    """Megabytes at the peak of one step, tables included."""

    def step(logits: Tensor, displacement: Tensor, seeds: Tensor) -> Tensor:
        return _step(make(radius, seeds), logits, displacement)

    small, large = _random_inputs(device, 2 * radius, 1), _random_inputs(device, size, batch)
    return peak_megabytes(step, small, large, device)
