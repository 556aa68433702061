"""Fold batch normalisation into the convolutions in front of it, for inference."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["fold_batch_norm"]

_SIGNATURE = inspect.signature(F.batch_norm)


@torch.no_grad()
def fold_batch_norm(network: nn.Module, forward: Callable[[], Any]) -> int:
    """Give the weights of convolutions the scale of the batch normalisation that follows them.

    Which one follows which is watched in one run, so the network may be of any structure. Folded is
    a normalisation by running statistics whose input is the result of a convolution that nothing
    else reads. Its activation (timm's layers have one of their own) stays. The network gives the
    same results but for rounding; it is for inference only, and its parameters are no longer those
    of its checkpoint.

    Args:
        network: in evaluation mode; changed in place.
        forward: runs the network once, on any input.

    Returns:
        How many were folded.
    """
    convs = {id(m.weight): m for m in network.modules() if isinstance(m, nn.Conv2d)}
    norms = {
        id(m.running_mean): m
        for m in network.modules()
        if isinstance(getattr(m, "running_mean", None), Tensor)
    }
    with _Watch() as watch:
        forward()
    activations = {}
    for weight, arguments in watch.pairs():
        conv, norm = convs.get(weight), norms.get(id(arguments["running_mean"]))
        if conv is not None and norm is not None:
            _fold(conv, arguments)
            activations[norm] = getattr(norm, "act", nn.Identity())
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in activations:
                setattr(parent, name, activations[child])
    return len(activations)


def _fold(conv: nn.Conv2d, norm: dict[str, Any]) -> None:
    """Scale and shift a convolution as :func:`torch.nn.functional.batch_norm` does with these
    arguments."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm["running_mean"],
        norm["running_var"],
        norm["eps"],
        norm["weight"],
        norm["bias"],
    )


class _Watch(TorchFunctionMode):
    """Sees which batch normalisations read the results of which convolutions."""

    def __init__(self) -> None:
        super().__init__()
        # By the id of a convolution's result, which is kept so that no other tensor gets its id.
        self._results: dict[int, tuple[Tensor, int]] = {}
        self._normalised: dict[int, dict[str, Any]] = {}
        self._reads: Counter[int] = Counter()
        self._weights: Counter[int] = Counter()
        self._statistics: Counter[int] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # no look at a shape
            self._reads.update(map(id, tree_leaves((args, kwargs))))
        if func is F.batch_norm:
            arguments = _SIGNATURE.bind(*args, **kwargs)
            arguments.apply_defaults()
            arguments = arguments.arguments
            self._statistics[id(arguments["running_mean"])] += 1
            if not arguments["training"]:
                self._normalised[id(arguments["input"])] = arguments
        elif func is torch.conv2d:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            self._weights[id(weight)] += 1
            self._results[id(result)] = (result, id(weight))
            self._reads[id(result)] = 0  # those before were of a tensor that is gone
            self._normalised.pop(id(result), None)
        return result

    def pairs(self) -> list[tuple[int, dict[str, Any]]]:
        """The id of a convolution's weight and the arguments of the normalisation that alone reads
        its result, where both were used once."""
        return [
            (self._results[key][1], arguments)
            for key, arguments in self._normalised.items()
            if key in self._results
            and self._reads[key] == 1
            and self._weights[self._results[key][1]] == 1
            and self._statistics[id(arguments["running_mean"])] == 1
        ]
