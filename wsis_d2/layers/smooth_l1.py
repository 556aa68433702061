"""Self-adjusting smooth L1: a regression loss that finds its own control point."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SelfAdjustingSmoothL1", "smooth_l1"]

#: Smallest control point: the quadratic part divides by it.
MIN_BETA = 1e-3


def smooth_l1(error: Tensor, beta: Tensor) -> Tensor:
    """error^2 / (2 beta) below the control point, error - beta / 2 above it, element by element.

    Args:
        error: absolute errors, >= 0.
        beta: control points > 0, broadcast against ``error``.

    Returns:
        Losses in the shape of ``error``.
    """
    return torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


class SelfAdjustingSmoothL1(nn.Module):
    """Smooth L1 whose control point is the running mean of the absolute error minus its variance.

    The quadratic part so shrinks with the error: most samples keep a gradient of +-1 while the
    closest ones are weighted by how close they are. Each coordinate has its own control point,
    clipped to [0.001, ``beta``].

    In training the statistics are updated before the loss is computed, over the samples of all
    processes where ``torch.distributed`` is initialised (so every process must call it); batches of
    fewer than two samples leave them as they are.

    Source: Fu, Shvets and Berg, "RetinaMask: Learning to predict masks improves state-of-the-art
    single-shot detection for free", arXiv:1901.03353, section 3.2. The clipping from below is the
    released code's.

    Attributes:
        running_mean, running_var: (num_coordinates,) float buffers, part of the checkpoint; they
            start at ``beta`` and 0, which is stock smooth L1.
    """

    def __init__(self, num_coordinates: int = 4, beta: float = 0.11, momentum: float = 0.9):
        """
        Args:
            num_coordinates: D, regression targets per sample.
            beta: upper bound of the control point.
            momentum: weight of the old statistics in an update.

        Raises:
            ValueError: ``beta`` is below 0.001 or ``momentum`` outside of [0, 1].
        """
        super().__init__()
        if beta < MIN_BETA or not 0 <= momentum <= 1:
            raise ValueError(
                f"beta must be >= {MIN_BETA} and momentum in [0, 1], got {beta} and {momentum}"
            )
        self.beta = beta
        self.momentum = momentum
        self.register_buffer("running_mean", torch.full((num_coordinates,), float(beta)))
        self.register_buffer("running_var", torch.zeros(num_coordinates))

    @property
    def control_points(self) -> Tensor:
        """(D,): below them the loss is quadratic, above linear."""
        return (self.running_mean - self.running_var).clamp(MIN_BETA, self.beta)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """
        Args:
            prediction: (M, D), any M, 0 too. Half precision is computed in float32.
            target: (M, D).

        Returns:
            The sum of the losses, a float32 scalar.

        Raises:
            ValueError: the shapes differ or have another D.
        """
        if prediction.shape != target.shape or prediction.shape[1:] != self.running_mean.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must both "
                f"be (M, {len(self.running_mean)})"
            )
        error = (prediction.float() - target.float()).abs()
        if self.training:
            self._update_statistics(error.detach())
        return smooth_l1(error, self.control_points).sum()

    def _update_statistics(self, error: Tensor) -> None:
        count = torch.full_like(self.running_mean, len(error))
        moments = torch.stack([count, error.sum(0), (error**2).sum(0)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(moments)
        count, total, total_of_squares = moments
        mean = total / count.clamp(min=1)
        variance = (total_of_squares - total * mean).clamp(min=0) / (count - 1).clamp(min=1)
        weight = torch.where(count >= 2, 1 - self.momentum, 0.0)
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)
