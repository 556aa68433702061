"""Weighted gradients against weighted losses; boxes in a region against counting pixels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wsis_d2.layers import fraction_inside, scale_gradient


def test_the_gradient_is_that_of_the_weighted_loss_and_the_value_the_plain_one():
    torch.manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    classes, weights = torch.randint(4, (7,)), torch.rand(7, dtype=torch.float64) * 2
    loss = F.cross_entropy(scale_gradient(x, weights[:, None]), classes)
    (gradient,) = torch.autograd.grad(loss, x)
    terms = F.cross_entropy(x, classes, reduction="none")
    (expected,) = torch.autograd.grad((weights * terms).mean(), x)
    assert torch.allclose(gradient, expected)
    assert loss.item() == terms.mean().item()


@given(st.integers(0, 1000))
def test_fraction_of_boxes_inside_a_region(seed):
    generator = torch.Generator().manual_seed(seed)
    region = torch.rand(9, 12, generator=generator) < 0.4
    corners = torch.rand(6, 2, 2, generator=generator) * 20 - 4  # some lie outside the image
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    for box, fraction in zip(boxes.round().long().tolist(), fraction_inside(boxes, region)):
        pixels = [
            region[y, x].item()
            for y in range(max(box[1], 0), min(box[3], 9))
            for x in range(max(box[0], 0), min(box[2], 12))
        ]
        assert fraction.item() == pytest.approx(sum(pixels) / max(len(pixels), 1))


def test_no_boxes():
    assert fraction_inside(torch.zeros(0, 4), torch.ones(3, 3, dtype=torch.bool)).shape == (0,)
