"""Batch normalisation with the statistics that it was given and an affine part that learns."""

from __future__ import annotations

from functools import cache

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FixedBatchNorm2d", "convert_to_fixed_batchnorm"]


class _FixedStatistics:
    """Never enters training mode, so that the running statistics are used and stay as they are."""

    def train(self, mode: bool = True):
        return super().train(False)


class FixedBatchNorm2d(_FixedStatistics, nn.BatchNorm2d):
    """Batch normalisation whose running statistics are fixed while weight and bias are trained.

    IRNet's classifier has it in place of all batch normalisation (Ahn et al., CVPR 2019, released
    code). Detectron2's ``FrozenBN`` has the same outputs, but its weight and bias are constants.
    Parameters and buffers are those of :class:`torch.nn.BatchNorm2d`, so the same weights load.

    Args:
        num_features: number of channels.
        options: see :class:`torch.nn.BatchNorm2d`.
    """

    def __init__(self, num_features: int, **options):
        super().__init__(num_features, **options)
        self.eval()


@cache
def _fixed(norm_type: type[_BatchNorm]) -> type[_BatchNorm]:
    if norm_type is nn.BatchNorm2d:
        return FixedBatchNorm2d
    return type(f"Fixed{norm_type.__name__}", (_FixedStatistics, norm_type), {})


def convert_to_fixed_batchnorm(module: nn.Module) -> nn.Module:
    """Fix the running statistics of every batch normalisation in a module, as
    :class:`FixedBatchNorm2d` does; weights and biases are still trained.

    Layers stay what they are, subclasses with an activation of their own included (timm's), and
    keep their parameters, names and hooks. Those without running statistics are left alone.

    Args:
        module: any module; changed in place.

    Returns:
        The module.
    """
    for layer in module.modules():
        fixed = isinstance(layer, _FixedStatistics)
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and not fixed:
            layer.__class__ = _fixed(type(layer))
            layer.eval()
    return module
