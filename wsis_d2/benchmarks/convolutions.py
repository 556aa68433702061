"""Dilated depthwise convolutions, forward and backward, by phases and as PyTorch has them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..layers import convert_dilated_depthwise
from .measure import compare


def dilated_benchmarks(device: str = "cpu", batch: int = 4) -> list[dict]:
    """The dilated layers of a MobileNetV2 and of an EfficientNet-Lite0 of stride 16, on crops of
    448 pixels.

    Returns:
        What :func:`~wsis_d2.benchmarks.run_benchmarks` gives, without memory. The results that are
        compared are the outputs and all gradients.
    """
    return [_dilated(device, batch, channels, size) for channels, size in ((960, 3), (1152, 5))]


def _dilated(device: str, batch: int, channels: int, size: int, side: int = 28) -> dict:
    torch.manual_seed(0)
    plain = nn.Conv2d(
        channels, channels, size, padding=size - 1, dilation=2, groups=channels, bias=False
    ).to(device)
    phases = convert_dilated_depthwise(copy.deepcopy(plain))
    x = torch.randn(batch, channels, side, side, device=device, requires_grad=True)

    def step(conv: nn.Conv2d) -> Tensor:
        y = conv(x)
        gradients = torch.autograd.grad(y.square().sum() / 2, (x, conv.weight))
        return torch.cat([part.detach().flatten() for part in (y, *gradients)])

    figures, _ = compare(lambda: step(phases), lambda: step(plain), device)
    name = (
        f"depthwise convolution and gradients, {batch} x {channels} x {side} x {side}, "
        f"{size} x {size}, dilation 2, {device}"
    )
    return {"name": name, **figures}
