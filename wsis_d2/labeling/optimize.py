"""Trained networks made ready for the one thing that label generation does with them."""

from __future__ import annotations

import torch
from torch import nn

from ..layers import fold_batch_norm

# A side that every network here takes.
_EXAMPLE_SIDE = 64


def optimize_for_inference(network: nn.Module) -> nn.Module:
    """Make a trained network faster on images; its results are the same but for rounding.

    Batch normalisation becomes part of the convolutions. On a CPU the layout becomes
    ``channels_last``, in which a 1x1 convolution is one matrix product: with one thread a
    MobileNetV2 takes half as long.

    Not for networks whose peaks are traced back: :func:`wsis_d2.layers.peak_response_maps` reads
    the weights.

    Args:
        network: a Detectron2 model in evaluation mode, with its weights; changed in place and no
            longer good for training or checkpoints.

    Returns:
        The network.
    """
    example = {"image": torch.zeros(3, _EXAMPLE_SIDE, _EXAMPLE_SIDE)}
    fold_batch_norm(network, lambda: network([example]))
    if all(parameter.device.type == "cpu" for parameter in network.parameters()):
        network.to(memory_format=torch.channels_last)
    return network
