"""Features of a backbone by their names, brought to one stride."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from ..errors import UserError

__all__ = ["concatenate", "feature_shapes", "resample", "select_features"]


def select_features(backbone: Backbone, names: Sequence[str], key: str) -> dict[str, ShapeSpec]:
    """Shapes of the features that the config key ``key`` names.

    Raises:
        UserError: the backbone does not give one of them.
    """
    shapes = backbone.output_shape()
    for name in names:
        if name not in shapes:
            raise UserError(
                f"{key} names '{name}', but the backbone gives {', '.join(shapes)}: add it to "
                "its OUT_FEATURES (MODEL.RESNETS or MODEL.TIMM), or leave it out"
            )
    return {name: shapes[name] for name in names}


def feature_shapes(
    names: Sequence[str], channels: Sequence[int], strides: Sequence[int]
) -> dict[str, ShapeSpec]:
    """Shapes of features, in this order: for LazyConfig files, which are saved with sorted keys."""
    return {
        name: ShapeSpec(channels=width, stride=stride)
        for name, width, stride in zip(names, channels, strides)
    }


def resample(x: Tensor, stride: int, target_stride: int) -> Tensor:
    """Bring a feature map from one stride to another.

    Args:
        x: (N, C, ceil(H / stride), ceil(W / stride)).
        stride: that of ``x``.
        target_stride: a multiple or a divisor of it.

    Returns:
        At a finer target: bilinear, each side exactly stride / target_stride times as long, so at
        least ceil(H / target_stride). At a coarser one: means of blocks, sides ceil(H /
        target_stride).
    """
    if stride > target_stride:
        factor = _factor(stride, target_stride)
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    if stride < target_stride:
        return F.avg_pool2d(x, _factor(target_stride, stride), ceil_mode=True)
    return x


def _factor(coarse: int, fine: int) -> int:
    if coarse % fine:
        raise UserError(
            f"features of stride {coarse} and {fine} cannot be brought together, because neither "
            "divides the other: choose other MODEL.RESNETS.STRIDES or another output stride (of a "
            "ViT: MODEL.TIMM.PYRAMID)"
        )
    return coarse // fine


def concatenate(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(N, C_i, h_i, w_i) to (N, sum of C_i, h, w): :func:`resample` may leave a map too long at the
    right and at the bottom."""
    height, width = size
    return torch.cat([m[..., :height, :width] for m in maps], dim=1)
