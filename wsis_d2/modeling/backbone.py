"""Detectron2's ResNet with free strides and dilations."""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

from .norm import find_norm

__all__ = ["Stem", "build_wsis_resnet_backbone", "make_stages"]

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Stem(BasicStem):
    """Detectron2's stem with a free stride of the convolution and optional max pooling."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        norm: str = "BN",
        conv_stride: int = 2,
        max_pool: bool = True,
    ):
        super().__init__(in_channels, out_channels, find_norm(norm))
        self.conv1.stride = (conv_stride, conv_stride)
        self.max_pool = max_pool
        self.stride = conv_stride * (2 if max_pool else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.max_pool:
            return super().forward(x)
        return F.relu_(self.conv1(x))


@BACKBONE_REGISTRY.register()
def build_wsis_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet of depth 18, 34, 50, 101 or 152 from ``cfg.MODEL.RESNETS``.

    Beside Detectron2's keys it reads ``STRIDES`` (of conv1, res3, res4 and res5; that of res2 is
    1), ``DILATIONS`` (of res2 to res5, in every block as ``RES5_DILATION`` does it) and
    ``STEM_MAX_POOL``. Widths are free for every depth. Parameters have the names and shapes of
    Detectron2's ``build_resnet_backbone``, so that the same weights load. ``NORM`` may also be
    "FixedBN".

    Raises:
        ValueError: an unknown depth, lists of another length than 4, a number below 1, or what the
            blocks do not support.
    """
    resnets = cfg.MODEL.RESNETS
    _check(resnets)
    conv1_stride, *later_strides = resnets.STRIDES
    stem = Stem(
        input_shape.channels,
        resnets.STEM_OUT_CHANNELS,
        resnets.NORM,
        conv1_stride,
        resnets.STEM_MAX_POOL,
    )
    stages = make_stages(
        resnets.DEPTH,
        in_channels=resnets.STEM_OUT_CHANNELS,
        out_channels=resnets.RES2_OUT_CHANNELS,
        bottleneck_channels=resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP,
        strides=(1, *later_strides),
        dilations=resnets.DILATIONS,
        num_groups=resnets.NUM_GROUPS,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        norm=resnets.NORM,
    )
    return ResNet(
        stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )


def make_stages(
    depth: int,
    *,
    in_channels: int = 64,
    out_channels: int = 256,
    bottleneck_channels: int = 64,
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[int] = (1, 1, 1, 1),
    num_groups: int = 1,
    stride_in_1x1: bool = False,
    norm: str = "BN",
) -> list[list[nn.Module]]:
    """Blocks of res2 to res5, for the ``stages`` of Detectron2's :class:`ResNet`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: of res2's input: what the stem gives.
        out_channels: of res2; each later stage has twice as many as the one before.
        bottleneck_channels: inside of res2's blocks, likewise; from depth 50 on.
        strides, dilations: of the four stages. The first block of a stage has its stride, every
            block its dilation.
        num_groups, stride_in_1x1, norm: as in ``MODEL.RESNETS``; see also
            :func:`wsis_d2.modeling.find_norm`.
    """
    basic = depth < 50
    stages = []
    for num_blocks, stride, dilation in zip(_BLOCKS_PER_STAGE[depth], strides, dilations):
        options = {} if basic else {
            "bottleneck_channels": bottleneck_channels,
            "num_groups": num_groups,
            "stride_in_1x1": stride_in_1x1,
            "dilation": dilation,
        }  # fmt: skip
        stages.append(
            ResNet.make_stage(
                BasicBlock if basic else BottleneckBlock,
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                norm=find_norm(norm),
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                **options,
            )
        )
        in_channels = out_channels
        out_channels, bottleneck_channels = 2 * out_channels, 2 * bottleneck_channels
    return stages


def _check(resnets: CfgNode) -> None:
    if resnets.DEPTH not in _BLOCKS_PER_STAGE:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH must be one of {', '.join(map(str, _BLOCKS_PER_STAGE))}, "
            f"got {resnets.DEPTH}"
        )
    for key, meaning in (("STRIDES", "conv1, res3, res4, res5"), ("DILATIONS", "res2 to res5")):
        value = resnets[key]
        if len(value) != 4 or min(value) < 1:
            raise ValueError(
                f"MODEL.RESNETS.{key} must be four positive numbers, for {meaning}, got {value}"
            )
    if resnets.RES5_DILATION != 1 or any(resnets.DEFORM_ON_PER_STAGE):
        raise ValueError(
            "build_wsis_resnet_backbone takes MODEL.RESNETS.DILATIONS in place of RES5_DILATION, "
            "and has no deformable blocks (DEFORM_ON_PER_STAGE)"
        )
    if resnets.DEPTH < 50 and (resnets.NUM_GROUPS != 1 or max(resnets.DILATIONS) != 1):
        raise ValueError(
            f"ResNet-{resnets.DEPTH} has neither groups nor dilations: set "
            "MODEL.RESNETS.NUM_GROUPS and DILATIONS to 1"
        )
