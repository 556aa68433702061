"""Any network of timm that gives features, as a Detectron2 backbone.

timm (PyTorch Image Models, Wightman 2019) is an extra: ``pip install wsis_d2[timm]``.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from ..errors import UserError
from ..layers import convert_dilated_depthwise, convert_to_fixed_batchnorm

__all__ = [
    "TimmBackbone",
    "build_retinanet_timm_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
]

logger = logging.getLogger(__name__)

#: Names of the levels, finest first; those of strides 2 to 32 where nothing is dilated.
LEVELS = ("stem", "res2", "res3", "res4", "res5")
#: What timm's own classifier would pool: the last level after the network's last convolution or
#: normalisation (MobileNetV2: 1,280 channels from 320).
HEAD = "head"
#: Strides of the levels of a pyramid made of a network of one stride.
PYRAMID_STRIDES = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}

NORMS = ("BN", "FixedBN", "FrozenBN")


@dataclass(frozen=True)
class _Level:
    """One feature map of a timm network: its place in ``forward_intermediates``, module, shape."""

    index: int
    module: str
    channels: int
    stride: int


class TimmBackbone(Backbone):
    """Feature maps of a timm network under the names of Detectron2's ResNet.

    The network is timm's whole model without its classifier, so parameters have timm's own names
    below ``network.`` and checkpoints of timm load. Images of any size may come: they are
    zero-padded at the right and at the bottom to what the network divides, and the maps are
    cropped to ceil(side / stride) again.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        out_features: Sequence[str] = (),
        freeze_at: int = 0,
        norm: str = "FixedBN",
        pyramid: bool = False,
    ):
        """
        Args:
            network: a timm model with ``feature_info`` and ``forward_intermediates``.
            out_features: of "stem", "res2" .. "res5" and "head"; empty: all levels that the network
                has. A network of one stride (ViT) gives its first block as "stem" and the ends of
                the quarters of its depth as "res2" .. "res5", all of that stride.
            freeze_at: 0 trains everything; 1 freezes the stem, 2 also res2, ... 5 everything up to
                res5, as Detectron2's ``MODEL.BACKBONE.FREEZE_AT``. Batch normalisation of frozen
                levels keeps its statistics.
            norm: of the levels that train: "BN" as timm has it; "FixedBN" keeps the pre-trained
                statistics and trains weight and bias, as the published CAM network does; "FrozenBN"
                keeps both.
            pyramid: of a network of one stride: resize "stem", "res2" .. "res5" to the strides 4,
                4, 8, 16 and 32 (bilinear), for what needs several resolutions (IRNet's heads, FPN).
                Of a network of several strides it is ignored.

        Raises:
            UserError: a network without these features, or an unknown name.
        """
        super().__init__()
        self.network = convert_dilated_depthwise(network)
        levels = _levels(network)
        strides = {level.stride for level in levels.values()}
        self.pyramid = pyramid and len(strides) == 1 and len(levels) > 1
        last = list(levels)[-1]
        known = [*levels, HEAD]
        for name in out_features:
            if name not in known:
                raise UserError(
                    f"MODEL.TIMM.OUT_FEATURES (or what reads the backbone) names '{name}', but "
                    f"{type(network).__name__} gives {', '.join(known)}"
                )
        self._out_features = [n for n in known if n in out_features] or list(levels)
        self._levels = levels
        # "head" continues the last level.
        reached = last if HEAD in self._out_features else self._out_features[-1]
        self._indices = [
            level.index
            for name, level in levels.items()
            if name in self._out_features or name == reached
        ]
        self._out_feature_strides = {
            name: PYRAMID_STRIDES[name]
            if self.pyramid and name != HEAD
            else levels[last if name == HEAD else name].stride
            for name in self._out_features
        }
        self._out_feature_channels = {
            name: network.num_features if name == HEAD else levels[name].channels
            for name in self._out_features
        }
        self._own_stride = levels[last].stride
        self._divisor = _divisor(network, max(strides))
        self._freeze(freeze_at, norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, C, H, W) to {name: (N, channels, ceil(H / stride), ...)}."""
        size = x.shape[-2:]
        bottom, right = (-side % self._divisor for side in size)
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom))
        wants_head = HEAD in self._out_features
        result = self.network.forward_intermediates(
            x,
            indices=self._indices,
            stop_early=not wants_head,
            intermediates_only=not wants_head,
            output_fmt="NCHW",
        )
        final, maps = result if wants_head else (None, result)
        by_index = dict(zip(self._indices, maps))
        features = {n: by_index[self._levels[n].index] for n in self._out_features if n != HEAD}
        if wants_head:
            features[HEAD] = _channels_first(final, maps[-1].shape[-2:], self.network)
        return {name: self._fit(name, feature, size) for name, feature in features.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

    def _fit(self, name: str, feature: Tensor, size: Sequence[int]) -> Tensor:
        stride = self._out_feature_strides[name]
        if self.pyramid and name != HEAD and stride != self._own_stride:
            feature = F.interpolate(
                feature,
                scale_factor=self._own_stride / stride,
                mode="bilinear",
                align_corners=False,
                recompute_scale_factor=False,
            )
        height, width = (-(-side // stride) for side in size)
        # 14 pixels are three and a half cells of 4: the half one may be missing.
        missing = height - feature.shape[-2], width - feature.shape[-1]
        if max(missing) > 0:
            feature = F.pad(feature, (0, max(missing[1], 0), 0, max(missing[0], 0)), "replicate")
        return feature[..., :height, :width]

    def _freeze(self, freeze_at: int, norm: str) -> None:
        if norm not in NORMS:
            raise UserError(f"MODEL.TIMM.NORM is '{norm}': choose one of {', '.join(NORMS)}")
        if not 0 <= freeze_at <= len(LEVELS):
            raise UserError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}: choose 0 (nothing) to {len(LEVELS)}"
            )
        modules = list(self.network.named_modules())
        frozen_modules = [self._levels[n].module for n in LEVELS[:freeze_at] if n in self._levels]
        reached = _last_position(modules, frozen_modules[-1]) if frozen_modules else -1
        used = len(modules) - 1
        if HEAD not in self._out_features:
            # What comes after the last feature gets no gradient: DDP would wait for it.
            used = _last_position(modules, self._levels[self._out_features[-1]].module)
        for position, (_, module) in enumerate(modules):
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            frozen = position <= reached or position > used
            if is_norm and (frozen or norm != "BN"):
                convert_to_fixed_batchnorm(module)
            if frozen or (is_norm and norm == "FrozenBN"):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)


def _levels(network: nn.Module) -> dict[str, _Level]:
    if not hasattr(network, "feature_info") or not hasattr(network, "forward_intermediates"):
        raise UserError(
            f"timm's {type(network).__name__} gives no intermediate features: choose another "
            "MODEL.TIMM.NAME"
        )
    infos = getattr(network.feature_info, "info", network.feature_info)
    levels = [_Level(i, f["module"], f["num_chs"], f["reduction"]) for i, f in enumerate(infos)]
    if len({level.stride for level in levels}) == 1 and len(levels) > 1:
        depth = len(levels)
        picked = [0, *(max(depth * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4))]
        return {name: levels[index] for name, index in zip(LEVELS, picked)}
    levels = [level for level in levels if level.stride > 1]
    first = {2: 0, 4: 1, 8: 2, 16: 3, 32: 4}.get(levels[0].stride) if levels else None
    if first is None or first + len(levels) > len(LEVELS):
        raise UserError(
            f"timm's {type(network).__name__} gives features of the strides "
            f"{', '.join(str(level.stride) for level in levels)}, which are no levels of strides 2 "
            "to 32: choose another MODEL.TIMM.NAME"
        )
    # By order, not by stride: with an output stride of 16 res4 and res5 have the same.
    return dict(zip(LEVELS[first:], levels))


def _divisor(network: nn.Module, stride: int) -> int:
    """1 where the network takes any size and rounds up, else what sides must be a multiple of."""
    if hasattr(network, "patch_embed"):
        return stride
    side = 2 * stride + 1
    parameter = next(network.parameters())
    was_training = network.training
    try:
        with torch.no_grad():
            image = torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype)
            maps = network.eval().forward_intermediates(image, intermediates_only=True)
    except (RuntimeError, AssertionError):
        return stride
    finally:
        network.train(was_training)
    return 1 if maps[-1].shape[-1] == -(-side // stride) else stride


def _channels_first(x: Tensor, size: Sequence[int], network: nn.Module) -> Tensor:
    """What ``forward_intermediates`` ends with, as (N, C, h, w)."""
    if x.dim() == 3:  # tokens, those of no place first
        prefix = getattr(network, "num_prefix_tokens", 0)
        return x[:, prefix:].transpose(1, 2).unflatten(2, tuple(size)).contiguous()
    if x.shape[1] != network.num_features:  # Swin keeps channels last
        x = x.permute(0, 3, 1, 2)
    return x


def _last_position(modules: Sequence[tuple[str, nn.Module]], name: str) -> int:
    """Position of the last module that is ``name`` or inside of it."""
    return max(i for i, (n, _) in enumerate(modules) if n == name or n.startswith(f"{name}."))


def create_timm_network(name: str, output_stride: int = 0, dilate: bool = True) -> nn.Module:
    """A timm model with random weights and without its classifier.

    Args:
        name: timm's name, as ``timm.list_models()`` gives it.
        output_stride: 8, 16 or 32; 0: the network's own. A network of one stride keeps its own.
        dilate: whether the convolutions behind a stride that was taken out are dilated, so that
            they see what they saw in pre-training; without, as in the published CAM ResNet-50.

    Raises:
        UserError: timm is not installed or knows no such model, or the model has no such stride.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"MODEL.TIMM.NAME is '{name}', but timm is not installed: pip install 'wsis_d2[timm]'"
        ) from error
    if output_stride not in (0, 8, 16, 32):
        raise UserError(f"MODEL.TIMM.OUTPUT_STRIDE is {output_stride}: choose 8, 16, 32 or 0")
    if not name or not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UserError(f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} has not{hint}")
    stride = {} if output_stride in (0, 32) else {"output_stride": output_stride}
    network = _create(timm.create_model, name, stride)
    if network is None and stride:
        network = _create(timm.create_model, name, {})
        if network is None or not _has_one_stride(network):
            raise UserError(
                f"timm's {name} cannot be built with MODEL.TIMM.OUTPUT_STRIDE {output_stride}: "
                "leave it at 0, or choose a network that can be dilated (ResNet, EfficientNet, ...)"
            )
        logger.warning(
            f"MODEL.TIMM.OUTPUT_STRIDE {output_stride} has no effect: {name} has one stride, "
            f"{_levels(network)['res5'].stride}"
        )
    if network is None:
        raise UserError(f"timm cannot build '{name}' (MODEL.TIMM.NAME): choose another network")
    if not dilate:
        _undo_dilation(network)
    return network


def _create(create_model, name: str, options: dict) -> nn.Module | None:
    """The model, None where it does not know the options."""
    # Transformers are told to take images of any size, each family in its own words.
    any_size = {"dynamic_img_size": True}, {"strict_img_size": False}
    for size_options in (any_size[0] | any_size[1], *any_size, {}):
        try:
            return create_model(name, pretrained=False, num_classes=0, **options, **size_options)
        except (TypeError, AssertionError):
            continue
    return None


def _has_one_stride(network: nn.Module) -> bool:
    return len({level.stride for level in _levels(network).values()}) == 1


def _undo_dilation(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and max(module.dilation) > 1:
            if not isinstance(module.padding, str):
                module.padding = tuple(p // d for p, d in zip(module.padding, module.dilation))
            module.dilation = (1, 1)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm network that ``cfg.MODEL.TIMM`` describes, with random weights.

    Raises:
        UserError: see :func:`create_timm_network` and :class:`TimmBackbone`, or images that have
            other than three channels.
    """
    return _build(cfg, input_shape, cfg.MODEL.TIMM.OUT_FEATURES, cfg.MODEL.TIMM.PYRAMID)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """An FPN (Lin et al., CVPR 2017) on the levels ``MODEL.FPN.IN_FEATURES`` of a timm network.

    A network of one stride becomes a pyramid first, in the manner of ViTDet (Li et al., ECCV 2022),
    but resized without weights.
    """
    return _wrap(cfg, _build_bottom_up(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The same with RetinaNet's p6 and p7, for RetinaMask (Lin et al., ICCV 2017)."""
    bottom_up = _build_bottom_up(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _wrap(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    return _build(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES, True)


def _wrap(cfg: CfgNode, bottom_up: TimmBackbone, top_block: nn.Module) -> FPN:
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


def _build(
    cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str], pyramid: bool
) -> TimmBackbone:
    if input_shape.channels != 3:
        raise UserError(
            f"timm networks take images of 3 channels, but MODEL.PIXEL_MEAN has "
            f"{input_shape.channels}"
        )
    timm = cfg.MODEL.TIMM
    return TimmBackbone(
        create_timm_network(timm.NAME, timm.OUTPUT_STRIDE, timm.DILATION),
        out_features=out_features,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=timm.NORM,
        pyramid=pyramid,
    )
