"""Weights of a loss's terms, for losses that know no weights."""

from __future__ import annotations

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return gradient * weights, None


def scale_gradient(x: Tensor, weights: Tensor) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``weights`` on its way back.

    Where a loss is a sum of one term per row of ``x``, this is the gradient of the sum with these
    weights, whatever the terms are; the loss's value stays that of the plain sum.

    Args:
        x: any float tensor, such as the predictions (N, ...) that go into a loss.
        weights: float, of a shape that broadcasts to that of ``x``; no gradient flows to it.
    """
    return _ScaleGradient.apply(x, weights.to(x.dtype))
