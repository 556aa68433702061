"""Normalisation layers by name: Detectron2's and the plugin's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..layers import FixedBatchNorm2d

__all__ = ["find_norm"]

_NORMS = {"FixedBN": FixedBatchNorm2d}


def find_norm(norm: str | Callable[[int], nn.Module]) -> str | Callable[[int], nn.Module]:
    """What Detectron2's layers and :func:`detectron2.layers.get_norm` take for a name in a config.

    Args:
        norm: "FixedBN" (:class:`wsis_d2.layers.FixedBatchNorm2d`), or anything that Detectron2
            knows itself.

    Returns:
        A constructor from the number of channels for the plugin's own; others as they were given.
    """
    return _NORMS.get(norm, norm) if isinstance(norm, str) else norm
