"""Folded batch normalisation against the networks as they were."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from timm.layers import BatchNormAct2d
from torch import nn

from wsis_d2.layers import FixedBatchNorm2d, fold_batch_norm


def _with_statistics(network):
    """Random weights and statistics, some scales negative, in double precision."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return network.double().eval()


class Shared(nn.Module):
    """A convolution whose result has two readers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Repeated(nn.Module):
    """One convolution and two normalisations of its results."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.conv(x))
        return x


class PaddedByHand(nn.Module):
    """Looks at the shape of a result, which is no reader."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(F.pad(x, (1, 1, 1, 1)))
        assert x.shape[1] == 4
        return self.norm(x).relu()


NETWORKS = {
    "plain": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        1,
    ),
    "fixed, depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), FixedBatchNorm2d(6)),
        1,
    ),
    "without an affine part": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)),
        1,
    ),
    "with an activation of its own": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4, act_layer=nn.ReLU6)),
        1,
    ),
    "Detectron2's": (lambda: Conv2d(3, 4, 1, norm=FrozenBatchNorm2d(4), activation=F.relu), 1),
    "padded by hand": (PaddedByHand, 1),
    "normalisation first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), 0),
    "an activation between": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        0,
    ),
    "changed in place between": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
        0,
    ),
    "two readers": (Shared, 0),
    "used twice": (Repeated, 0),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        0,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_results_stay(name):
    build, num_folded = NETWORKS[name]
    network = _with_statistics(build())
    folded, x = copy.deepcopy(network), torch.randn(2, 3, 8, 9, dtype=torch.float64)
    assert fold_batch_norm(folded, lambda: folded(x[:1])) == num_folded
    norms = [m for m in folded.modules() if hasattr(m, "running_mean")]
    before = [m for m in network.modules() if hasattr(m, "running_mean")]
    assert len(norms) == len(before) - num_folded
    assert torch.allclose(folded(x), network(x), atol=1e-10)
