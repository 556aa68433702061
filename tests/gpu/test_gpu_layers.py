"""Every layer on the GPU against the same layer on the CPU, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsis_d2 import layers
from wsis_d2.labeling import alpha_seeds, confident_seeds
from wsis_d2.layers.permutohedral import PermutohedralLattice

pytestmark = pytest.mark.gpu


def _seeds(device):
    blocks = torch.tensor([[0, 1, 255], [2, 1, 0]], dtype=torch.uint8)
    seeds = blocks.repeat_interleave(12, 0).repeat_interleave(10, 1)
    return torch.stack([seeds, seeds.flip(0)]).to(device)


def _total(losses):
    return losses["total"]


#: Name, shape of x, differentiable function of x.
DIFFERENTIABLE = {
    "irnet_losses": (
        (2, 3, 24, 30),
        lambda x: _total(layers.irnet_losses(x[:, :1], x[:, 1:], _seeds(x.device), 5)),
    ),
    "affinitynet_losses": (
        (2, 8, 24, 30),
        lambda x: _total(layers.affinitynet_losses(x, _seeds(x.device), 5)),
    ),
    "peak_stimulation": ((2, 3, 9, 11), lambda x: layers.peak_stimulation(x)[0]),
    "count_losses": (
        (4, 5),
        lambda x: torch.stack(
            layers.count_losses(x, torch.arange(20, device=x.device).view(4, 5) % 7, 4)
        ),
    ),
    "spatial_losses": (
        (2, 3, 9, 11),
        lambda x: torch.stack(
            layers.spatial_losses(
                x,
                layers.highest_peaks(x, torch.full((2, 3), 2, device=x.device)),
                torch.tensor([[1, 0, 1], [0, 0, 1]], device=x.device) > 0,
            )
        ),
    ),
    "scale_gradient": (
        (4, 5),
        lambda x: layers.scale_gradient(x, torch.arange(5.0, device=x.device)),
    ),
    "SelfAdjustingSmoothL1": (
        (6, 4),
        lambda x: layers.SelfAdjustingSmoothL1().to(x.device)(x, x.detach().flip(0)),
    ),
    "FixedBatchNorm2d": (
        (2, 3, 9, 11),
        lambda x: layers.FixedBatchNorm2d(3).to(x.device)(x),
    ),
    "feature_affinity": ((8, 20, 26), lambda x: layers.feature_affinity(x, 4).values),
    "boundary_affinity": ((20, 26), lambda x: layers.boundary_affinity(x, 4).values),
    "correlate_pixels": (
        (2, 3, 9, 11),
        lambda x: layers.correlate_pixels(x, [x.square(), x[..., ::2, ::2]]),
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_values_and_gradients(device, name, full_precision):
    shape, function = DIFFERENTIABLE[name]
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    results = []
    for where in ("cpu", device):
        leaf = x.clone().to(where).requires_grad_()
        out = function(leaf)
        assert out.device.type == torch.device(where).type
        (out * torch.linspace(0.5, 1, out.numel(), device=where).view(out.shape)).sum().backward()
        results.append((out.detach().cpu(), leaf.grad.cpu()))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["chebyshev", "power", "dense"])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_walks(device, method, permuted, dtype, full_precision):
    torch.manual_seed(0)
    affinity = layers.boundary_affinity(torch.rand(20, 31, dtype=dtype) ** 3, 5)
    x = torch.rand(20, 31, 5, dtype=dtype).permute(2, 0, 1)
    x = x if permuted else x.contiguous()
    expected = layers.random_walk(x, affinity, num_steps=64, method=method)
    found = layers.random_walk(x.to(device), affinity.to(device), num_steps=64, method=method)
    assert found.device.type == torch.device(device).type
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


def test_walks_of_several_images(device):
    torch.manual_seed(0)
    xs = [torch.rand(3, 20, 31), torch.rand(6, 17, 40)]
    affinities = [layers.boundary_affinity(torch.rand(x.shape[1:]) ** 3, 5) for x in xs]
    expected = layers.random_walk(xs, affinities)
    found = layers.random_walk([x.to(device) for x in xs], [a.to(device) for a in affinities])
    for result, wanted in zip(found, expected):
        torch.testing.assert_close(result.cpu(), wanted, atol=1e-4, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_builds_its_kernel_on_this_machine():
    triton_stencil = pytest.importorskip("wsis_d2.layers.triton_stencil")
    affinity = layers.boundary_affinity(torch.rand(9, 12, device="cuda"), 4)
    layers.random_walk(torch.rand(3, 9, 12, device="cuda"), affinity)
    assert not triton_stencil.TritonStencil._kernel_failed


@pytest.mark.parametrize("speed", [3.0, 0.3])
def test_centroids_and_their_clusters(device, speed):
    torch.manual_seed(0)
    displacement = torch.randn(2, 40, 52) * speed
    found = layers.find_centroids(displacement.to(device), 100)
    expected = layers.find_centroids(displacement, 100)
    assert (found.cpu() == expected).float().mean() > 0.999
    labels = layers.cluster_centroids(expected.to(device), displacement.to(device), 1.0)
    assert torch.equal(labels.cpu(), layers.cluster_centroids(expected, displacement, 1.0))


def test_peaks(device):
    maps = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layers.find_peaks(maps.to(device)).cpu(), layers.find_peaks(maps))
    counts = torch.tensor([[0, 1, 2], [3, 1, 99]])
    found = layers.highest_peaks(maps.to(device), counts.to(device))
    assert torch.equal(found.cpu(), layers.highest_peaks(maps, counts))


def test_peak_response_maps(device, full_precision):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    ).eval()
    image, peaks = torch.rand(1, 3, 32, 40), torch.tensor([[0, 1, 3, 4], [0, 2, 9, 9]] * 10)
    expected = layers.peak_response_maps(network, image, peaks, 2)
    found = layers.peak_response_maps(network.to(device), image.to(device), peaks.to(device), 2)
    assert found.device.type == torch.device(device).type
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-3)


def test_fractions_of_boxes(device):
    torch.manual_seed(0)
    boxes, region = torch.rand(50, 4) * 30 - 3, torch.rand(24, 26) > 0.5
    found = layers.fraction_inside(boxes.to(device), region.to(device)).cpu()
    torch.testing.assert_close(found, layers.fraction_inside(boxes, region))


def test_permutohedral_lattice(device, full_precision):
    torch.manual_seed(0)
    features, values = 3 * torch.randn(500, 5), torch.rand(500, 3)
    expected = PermutohedralLattice(features).filter(values)
    found = PermutohedralLattice(features.to(device)).filter(values.to(device))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


def test_dense_crf(device):
    """Labels are those of the library, or of the tensor operations where it is missing."""
    torch.manual_seed(0)
    image = torch.full((60, 80, 3), 60, dtype=torch.uint8)
    image[:, 40:] = 200
    image += torch.randint(0, 30, image.shape, dtype=torch.uint8)
    scores = torch.rand(2, 3, 60, 80)
    expected = layers.dense_crf_from_scores(image, scores)
    found = layers.dense_crf_from_scores(image.to(device), scores.to(device))
    assert found.device.type == torch.device(device).type
    assert (found.cpu().argmax(1) == expected.argmax(1)).float().mean() > 0.99
    labels = scores.argmax(1)
    expected = layers.dense_crf_from_labels(image, labels, 3)
    found = layers.dense_crf_from_labels(image.to(device), labels.to(device), 3)
    assert (found.cpu() == expected).float().mean() > 0.99


@pytest.mark.parametrize("make_seeds", [confident_seeds, alpha_seeds])
def test_seeds(device, make_seeds):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    cam, class_ids = torch.rand(2, 40, 50) ** 3, torch.tensor([3, 11])
    found = make_seeds(image, cam.to(device), class_ids)
    assert found.device.type == torch.device(device).type
    assert (found.cpu() == make_seeds(image, cam, class_ids)).float().mean() > 0.99
