"""Batch normalisation with fixed statistics, against its formula and Detectron2's FrozenBN."""

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from wsis_d2.layers import FixedBatchNorm2d, convert_to_fixed_batchnorm


def trained(norm, seed=0):
    """Give a layer statistics and an affine part as a training leaves them."""
    torch.manual_seed(seed)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


@pytest.mark.parametrize("mode", [True, False])
def test_it_gives_what_frozen_batch_norm_gives_and_learns(mode):
    norm = trained(FixedBatchNorm2d(3)).train(mode)
    x = torch.randn(4, 3, 5, 6, requires_grad=True)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    shape = (1, 3, 1, 1)
    normalised = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    expected = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    y, upstream = norm(x), torch.randn(4, 3, 5, 6)
    assert torch.allclose(y, expected, atol=1e-5)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(copy.deepcopy(norm))
    assert torch.allclose(y, frozen(x), atol=1e-5)
    y.backward(upstream)
    assert torch.allclose(norm.bias.grad, upstream.sum((0, 2, 3)), atol=1e-4)
    assert torch.allclose(norm.weight.grad, (upstream * normalised).sum((0, 2, 3)), atol=1e-4)
    scale = (norm.weight / (var + 1e-5).sqrt()).view(shape)
    assert torch.allclose(x.grad, upstream * scale, atol=1e-5)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, var)
    assert norm.num_batches_tracked == 0


def test_weights_of_batch_norm_load_and_back():
    stock, fixed = trained(nn.BatchNorm2d(4)), FixedBatchNorm2d(4)
    assert list(stock.state_dict()) == list(fixed.state_dict())
    fixed.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(fixed(x), stock.eval()(x))
    stock.load_state_dict(fixed.state_dict(), strict=True)


class NormAndActivation(nn.BatchNorm2d):
    """As timm's layer of batch normalisation with the activation in it."""

    def forward(self, x):
        return super().forward(x).relu()


def test_every_batch_norm_of_a_network_is_fixed_in_place():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        trained(nn.BatchNorm2d(4)),
        nn.ModuleDict({"norm": trained(NormAndActivation(4))}),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
    )
    parameters = dict(network.named_parameters())
    keys = list(network.state_dict())
    assert convert_to_fixed_batchnorm(network) is network
    assert convert_to_fixed_batchnorm(network) is network  # twice is once
    network.train()
    assert isinstance(network[1], FixedBatchNorm2d)
    assert isinstance(network[2]["norm"], NormAndActivation)
    # No statistics to go by: it must take the batch's.
    assert type(network[3]) is nn.BatchNorm2d
    assert [m.training for m in (network[1], network[2]["norm"], network[3], network[4])] == [
        False, False, True, True,
    ]  # fmt: skip
    assert list(network.state_dict()) == keys
    assert all(p is parameters[n] and p.requires_grad for n, p in network.named_parameters())
    x = torch.randn(8, 4, 5, 5) * 3 + 7
    mean = network[2]["norm"].running_mean.clone()
    y = network[2]["norm"](x)
    assert torch.allclose(y, nn.functional.batch_norm(
        x, mean, network[2]["norm"].running_var, network[2]["norm"].weight,
        network[2]["norm"].bias, training=False,
    ).relu(), atol=1e-5)  # fmt: skip
    assert (y > 0).any()
    assert (y == 0).any()
    assert torch.equal(network[2]["norm"].running_mean, mean)
    again = copy.deepcopy(network).train()
    assert not again[2]["norm"].training
    assert torch.equal(again[2]["norm"](x), y)


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv2_050", features_only=True)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            trained(layer)
    x = torch.randn(2, 3, 32, 32)
    expected = network.eval()(x)
    convert_to_fixed_batchnorm(network).train()
    found = network(x)
    # Activations are still applied, and statistics those of before.
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(found, expected, strict=True))
    found[-1].sum().backward()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 30
    assert all(m.weight.grad is not None for m in norms)
