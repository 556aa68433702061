"""Dilated depthwise convolutions whose gradient a CPU has fast kernels for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DilatedDepthwiseConv2d", "convert_dilated_depthwise"]


class DilatedDepthwiseConv2d(nn.Conv2d):
    """A dilated depthwise convolution that trains on a CPU as an undilated one.

    With the dilation d, each output pixel reads pixels of its own phase alone: those whose row and
    column leave the same remainders of division by d. So the d * d phases are images of their own,
    on which the convolution is not dilated ("space to batch", Chen et al., "DeepLab", TPAMI 2018,
    section 3.1). The result is the same. oneDNN, which PyTorch uses on CPUs, computes the gradient
    of a dilated depthwise convolution by its reference code: for MobileNetV2's 960 channels in some
    ten times the time of an undilated one.

    Only where there is something to train; elsewhere, as in
    :func:`wsis_d2.layers.peak_response_maps`, it is the ordinary convolution. Of stride 1, and with
    the padding that keeps the size; parameters are those of :class:`torch.nn.Conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not (self.training and learns and x.device.type == "cpu"):
            return super().forward(x)
        height, width = x.shape[-2:]
        d_y, d_x = self.dilation
        bottom, right = -height % d_y, -width % d_x
        if bottom or right:  # zeros, as the padding around is
            x = F.pad(x, (0, right, 0, bottom))
        padding = [(size - 1) // 2 for size in self.kernel_size]
        phases = _to_phases(x, d_y, d_x)
        phases = F.conv2d(phases, self.weight, self.bias, padding=padding, groups=self.groups)
        x = _from_phases(phases, d_y, d_x)
        return x[..., :height, :width] if bottom or right else x


def _to_phases(x: Tensor, d_y: int, d_x: int) -> Tensor:
    """(N, C, h * d_y, w * d_x) to (N * d_y * d_x, C, h, w)."""
    x = x.unflatten(3, (-1, d_x)).unflatten(2, (-1, d_y))
    return x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def _from_phases(x: Tensor, d_y: int, d_x: int) -> Tensor:
    """The way back."""
    x = x.unflatten(0, (-1, d_y, d_x))
    return x.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def convert_dilated_depthwise(module: nn.Module) -> nn.Module:
    """Make every dilated depthwise convolution in a module a :class:`DilatedDepthwiseConv2d`.

    Those of a stride, of another padding, or padded by other than zeros are left alone.

    Args:
        module: any module; changed in place. Parameters, names and hooks stay.

    Returns:
        The module.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_dilated_depthwise(layer):
            layer.__class__ = DilatedDepthwiseConv2d
    return module


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    keeps_size = tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size))
    return (
        conv.groups == conv.in_channels > 1
        and max(conv.dilation) > 1
        and conv.stride == (1, 1)
        and all(size % 2 for size in conv.kernel_size)
        and conv.padding == keeps_size
        and conv.padding_mode == "zeros"
    )
