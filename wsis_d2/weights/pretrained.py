"""A backbone's weights from other programs: their names to the model's, and what they expect.

Whatever ``MODEL.WEIGHTS`` names, :class:`~wsis_d2.engine.WSISCheckpointer` gives the model's
backbone what fits of it and says what does not. Known are files of timm, torchvision (ResNet and
MobileNetV2), EfficientNet-PyTorch (``_blocks.0._depthwise_conv.weight``), Detectron2, DINO and what
timm itself converts (DINOv2 and v3, Swin, ConvNeXt, ...).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import UserError
from .addresses import (
    PACKAGED_FILES,
    PackagedWeightsHandler,
    TimmHandler,
    TorchvisionHandler,
    timm_pretrained_cfg,
    torchvision_weights,
)

logger = logging.getLogger(__name__)

#: Entries of a checkpoint that hold the weights, first come: Detectron2's and DeiT's, DINO's and
#: DINOv2's (the teacher is what they publish), timm's averaged and plain ones.
CONTAINERS = ("model", "teacher", "state_dict_ema", "model_ema", "state_dict")

#: What wraps a backbone's names in files of others, from outside: DDP; DINO, OpenMMLab, Detectron2
#: and this program; an FPN, and our timm backbone below it (only inside of a "backbone.": some
#: networks have a part called "network").
_WRAPPERS = (("module.",), ("backbone.", "bottom_up.", "network."))

#: Counters of batch normalisation that nothing reads (with a momentum, as everywhere).
_COUNTER = "num_batches_tracked"

#: Names inside an inverted residual block: torchvision's MobileNetV2 -> timm's. The first block has
#: no expansion.
_MOBILENET_BLOCK = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3",
}  # fmt: skip
_MOBILENET_FIRST_BLOCK = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}

#: The same for EfficientNet-PyTorch.
_EFFICIENTNET_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
_EFFICIENTNET_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
_EFFICIENTNET_ENDS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip

#: Names of a ResNet's parts: torchvision's and timm's -> Detectron2's.
_RESNET_TO_DETECTRON2 = (
    (r"layer(\d)\.(\d+)\.conv(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
    (r"layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
    (r"conv1\.", lambda m: "stem.conv1."),
    (r"bn1\.", lambda m: "stem.conv1.norm."),
)
#: And back.
_DETECTRON2_TO_RESNET = (
    (r"res(\d)\.(\d+)\.conv(\d)\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}."),
    (r"res(\d)\.(\d+)\.conv(\d)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}."),
    (r"res(\d)\.(\d+)\.shortcut\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1."),
    (r"res(\d)\.(\d+)\.shortcut\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0."),
    (r"stem\.conv1\.norm\.", lambda m: "bn1."),
    (r"stem\.conv1\.", lambda m: "conv1."),
)

_Rules = tuple[tuple[str, Callable[[re.Match], str]], ...]


def find_timm_network(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The timm network inside of a model, and its name there; ("", None) where there is none."""
    for name, module in model.named_modules():
        if hasattr(module, "pretrained_cfg"):
            return name, module
    return "", None


def convert_checkpoint_of_others(checkpoint: dict, model: nn.Module, source: str) -> None:
    """Give a checkpoint that is not ours the names of the model's backbone, in place.

    A checkpoint that has the model's own names is left as it is, heads included.

    Args:
        checkpoint: its ``model`` maps names to tensors or arrays; ``matching_heuristics`` and
            ``__author__`` are Detectron2's.
        model: the model that it is for; not changed.
        source: where the checkpoint is from, for messages.

    Raises:
        UserError: the weights are of a network that differs from the model's in a way that no
            name or shape tells.
    """
    weights = checkpoint["model"]
    own = model.state_dict()
    # Not by the heads: timm's classifiers and ours are both called "classifier".
    prefix = "backbone." if any(k.startswith("backbone.") for k in own) else ""
    if any(k.startswith(prefix) and _fits(w, own.get(k)) for k, w in weights.items()):
        return
    place, network = find_timm_network(model)
    if network is None:
        if not checkpoint.get("matching_heuristics"):  # with them it has Detectron2's names
            renamed = _rename(_unwrap(weights), _RESNET_TO_DETECTRON2)
            # FrozenBN, the usual norm there, has no counters: they would all be reported.
            checkpoint["model"] = {
                k: w
                for k, w in renamed.items()
                if not k.endswith(_COUNTER) or any(name.endswith(k) for name in own)
            }
            checkpoint["matching_heuristics"] = True
        return
    if checkpoint.get("__author__") == "Caffe2":
        raise UserError(
            f"{source} is a ResNet of Caffe2, which has its strides in 1x1 convolutions and timm "
            "in 3x3 ones: set MODEL.BACKBONE.NAME to build_wsis_resnet_backbone, or take weights "
            "of timm or torchvision"
        )
    converted = convert_to_timm(weights, network)
    names = network.state_dict()
    fitting = {k: w for k, w in converted.items() if _fits(w, names.get(k))}
    unfit = [
        f"{k} {tuple(w.shape)} instead of {tuple(names[k].shape)}"
        for k, w in converted.items()
        if k in names and k not in fitting
    ]
    unused = [k for k in converted if k not in names]
    if fitting and unfit:
        logger.warning(f"{source}: of another shape, not used: {_listed(unfit)}")
    if fitting and unused:
        logger.info(f"{source}: unknown to the backbone, not used: {_listed(unused)}")
    checkpoint["model"] = {f"{place}.{k}" if place else k: w for k, w in fitting.items()}
    checkpoint["matching_heuristics"] = False  # these are exact names now


def convert_to_timm(
    weights: Mapping[str, Tensor | np.ndarray], network: nn.Module
) -> dict[str, Tensor]:
    """Weights of a backbone by timm's names of them.

    Position embeddings of another grid are resampled as timm does it. What is not known keeps its
    name.

    Args:
        weights: of torchvision's MobileNetV2 or ResNet, EfficientNet-PyTorch, Detectron2's ResNet,
            or what timm's own filter of the network knows; wrapped (``module.``, ``backbone.``) or
            not.
        network: the timm model; its names and shapes are read.
    """
    tensors = {name: torch.as_tensor(weight) for name, weight in _unwrap(weights).items()}
    names = network.state_dict()
    blocks = _blocks(names)
    if "features.1.conv.0.0.weight" in tensors:
        tensors = {_mobilenet_v2_name(k, tensors, blocks): w for k, w in tensors.items()}
    elif "_conv_stem.weight" in tensors:
        tensors = {_efficientnet_name(k, tensors, blocks): w for k, w in tensors.items()}
    elif "stem.conv1.weight" in tensors and "conv1.weight" in names:
        tensors = _rename(tensors, _DETECTRON2_TO_RESNET)
    if all(k in tensors and _fits(tensors[k], w) for k, w in names.items()):
        return tensors
    # timm keeps beside each of its models what converts its original weights.
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            with torch.no_grad():
                return convert(dict(tensors), network)
        except (KeyError, ValueError, IndexError, RuntimeError, AttributeError):
            # Weights of another network: reported by the caller as what does not fit.
            return tensors
    return tensors


def report_loaded(source: str, model: nn.Module, missing: Iterable[str]) -> None:
    """Log how much of the backbone a file gave.

    Args:
        source: where the weights are from.
        model: the model that was loaded.
        missing: names of its weights that the file does not have, or has in another shape.

    Raises:
        UserError: it gave nothing at all, to no part of the model.
    """
    missing = set(missing)
    names = [k for k in model.state_dict() if not k.endswith(_COUNTER)]
    if all(k in missing for k in names):
        raise UserError(
            f"{source} fits no weight of the model: it is of another network than "
            "MODEL.BACKBONE and MODEL.TIMM describe, or of an unknown layout"
        )
    place, network = find_timm_network(model)
    prefix = f"{place}." if network is not None else "backbone.bottom_up."
    if not any(k.startswith(prefix) for k in names):
        prefix = "backbone."
    backbone = [k for k in names if k.startswith(prefix)] or names
    absent = [k for k in backbone if k in missing]
    text = f"{source}: loaded {len(backbone) - len(absent)} of the {len(backbone)} weights of "
    text += prefix.rstrip(".")
    if absent:
        logger.warning(f"{text}; as built: {_listed(absent)}")
    else:
        logger.info(text)


def _fits(weight: Tensor | np.ndarray, own: Tensor | None) -> bool:
    return own is not None and tuple(weight.shape) == tuple(own.shape)


def _listed(names: list[str], limit: int = 12) -> str:
    more = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def _unwrap(weights: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor | np.ndarray]:
    """The backbone alone, by its own names."""
    weights = dict(weights)
    for outer, *inner in _WRAPPERS:
        inside = {k.removeprefix(outer): w for k, w in weights.items() if k.startswith(outer)}
        for wrapper in inner:
            inside = {
                k.removeprefix(wrapper): w for k, w in inside.items() if k.startswith(wrapper)
            } or inside
        weights = inside or weights
    return weights


def _rename(weights: Mapping[str, Tensor], rules: _Rules) -> dict[str, Tensor]:
    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            new, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                return new
        return name

    return {renamed(name): weight for name, weight in weights.items()}


def _blocks(names: Iterable[str]) -> list[str]:
    """Places of timm's blocks, ``blocks.<stage>.<index>``, in order: others number them through."""
    found = {match[0]: None for match in map(re.compile(r"blocks\.\d+\.\d+").match, names) if match}
    return sorted(found, key=lambda place: [int(number) for number in place.split(".")[1:]])


def _mobilenet_v2_name(name: str, weights: Mapping[str, Tensor], blocks: list[str]) -> str:
    if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d(?:\.\d)?)\.(\w+)", name):
        index, part, parameter = int(match[1]) - 1, match[2], match[3]
        has_expansion = f"features.{match[1]}.conv.3.weight" in weights
        parts = _MOBILENET_BLOCK if has_expansion else _MOBILENET_FIRST_BLOCK
        if index < len(blocks) and part in parts:
            return f"{blocks[index]}.{parts[part]}.{parameter}"
    elif match := re.fullmatch(r"features\.(\d+)\.([01])\.(\w+)", name):
        ends = {0: ("conv_stem", "bn1"), len(blocks) + 1: ("conv_head", "bn2")}
        if int(match[1]) in ends:
            return f"{ends[int(match[1])][int(match[2])]}.{match[3]}"
    return name.replace("classifier.1.", "classifier.")


def _efficientnet_name(name: str, weights: Mapping[str, Tensor], blocks: list[str]) -> str:
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        index, part, parameter = int(match[1]), match[2], match[3]
        has_expansion = f"_blocks.{index}._expand_conv.weight" in weights
        parts = _EFFICIENTNET_BLOCK if has_expansion else _EFFICIENTNET_FIRST_BLOCK
        if index < len(blocks) and part in parts:
            return f"{blocks[index]}.{parts[part]}.{parameter}"
        return name
    part, _, parameter = name.partition(".")
    return f"{_EFFICIENTNET_ENDS.get(part, part)}.{parameter}"


class PixelStatistics(NamedTuple):
    """How the images were normalised that a network was trained with.

    Attributes:
        mean: for ``MODEL.PIXEL_MEAN``: of pixels 0..255, in the order of ``format``.
        std: for ``MODEL.PIXEL_STD``, likewise.
        format: for ``INPUT.FORMAT``: "RGB" or "BGR".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    format: str


def _in_pixels(mean: Iterable[float], std: Iterable[float]) -> PixelStatistics:
    """Of RGB images in 0..1, as torchvision and timm have them."""
    scaled = (tuple(round(255 * v, 3) for v in values) for values in (mean, std))
    return PixelStatistics(*scaled, "RGB")


_IMAGENET = _in_pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PACKAGED = {
    "ImageNetPretrained/mobilenetv2_100": _IMAGENET,
    **{
        f"ImageNetPretrained/tf_efficientnet_lite{i}": _in_pixels((0.5,) * 3, (0.5,) * 3)
        for i in range(3)
    },
}
#: Detectron2's model zoo: MSRA's and FAIR's networks read BGR, its copies of torchvision's RGB.
_DETECTRON2 = {
    "detectron2://ImageNetPretrained/torchvision/": _IMAGENET,
    "detectron2://ImageNetPretrained/MSRA/": PixelStatistics(
        (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR"
    ),
    "detectron2://ImageNetPretrained/FAIR/": PixelStatistics(
        (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "BGR"
    ),
}


def pretrained_pixel_stats(weights: str) -> PixelStatistics | None:
    """How to normalise images for weights, or None where nobody said it.

    Args:
        weights: an address (``wsis_d2://``, ``timm://``, ``torchvision://``,
            ``detectron2://ImageNetPretrained/``), a file of ``wsis_d2://`` under its own name, or
            timm's name of a model, with or without a tag.
    """
    for name, statistics in _PACKAGED.items():
        if weights == PackagedWeightsHandler.PREFIX + name:
            return statistics
        if os.path.basename(weights) == PACKAGED_FILES[name].base_name:
            return statistics
    for prefix, statistics in _DETECTRON2.items():
        if weights.startswith(prefix):
            return statistics
    try:
        if weights.startswith(TorchvisionHandler.PREFIX):
            name = weights.removeprefix(TorchvisionHandler.PREFIX)
            transforms = torchvision_weights(name).transforms()
            return _in_pixels(transforms.mean, transforms.std)
        name = weights.removeprefix(TimmHandler.PREFIX)
        if name and "/" not in name:
            pretrained = timm_pretrained_cfg(name)
            return _in_pixels(pretrained.mean, pretrained.std)
    except UserError:  # no such weights, or no timm: said where they are loaded
        pass
    return None


def check_pixel_statistics(cfg: CfgNode) -> bool:
    """Warn where the config normalises images otherwise than ``MODEL.WEIGHTS`` were trained with.

    Nothing is said of weights whose statistics are not known (files on disk, own checkpoints).

    Returns:
        Whether they agree, as far as known.
    """
    expected = pretrained_pixel_stats(cfg.MODEL.WEIGHTS)
    if expected is None:
        return True
    found = PixelStatistics(
        tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD), cfg.INPUT.FORMAT
    )
    # Tables are rounded: 57.0 and 57.375 are one standard deviation.
    if found.format == expected.format and all(
        len(a) == len(b) and np.allclose(a, b, rtol=0.02, atol=0.5)
        for a, b in zip(found[:2], expected[:2])
    ):
        return True
    logger.warning(
        f"{cfg.MODEL.WEIGHTS} was trained on images normalised by {_in_words(expected)}, but the "
        f"config has {_in_words(found)}: the network sees other images than it knows"
    )
    return False


def _in_words(statistics: PixelStatistics) -> str:
    mean, std = ([round(value, 3) for value in values] for values in statistics[:2])
    return f'MODEL.PIXEL_MEAN {mean}, MODEL.PIXEL_STD {std} and INPUT.FORMAT "{statistics.format}"'
