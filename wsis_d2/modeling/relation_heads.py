"""The two branches of IRNet: class boundaries and displacements to instance centroids.

Source: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019, section 4 and figure 3; widths and groups as in the authors' code.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..errors import UserError, look_up
from .features import concatenate, resample

__all__ = [
    "RELATION_HEAD_REGISTRY",
    "BoundaryHead",
    "ContextDisplacementHead",
    "DisplacementHead",
    "build_relation_head",
]

RELATION_HEAD_REGISTRY = Registry("RELATION_HEAD")
RELATION_HEAD_REGISTRY.__doc__ = """
Branches of IRNet, chosen by name in ``MODEL.IRNET.BOUNDARY_HEAD`` and ``DISPLACEMENT_HEAD``.

An entry is called as ``Head(cfg, input_shape)``, with a :class:`ShapeSpec` (channels and stride)
for each feature of ``MODEL.IRNET.IN_FEATURES``. Its forward takes these features, (N, C, ceil(H /
stride), ceil(W / stride)) each, and gives (N, 1, h, w) boundary logits or (N, 2, h, w)
displacements (dy, dx) in cells, h = ceil(H / ``MODEL.IRNET.STRIDE``).
"""


def build_relation_head(cfg: CfgNode, key: str, input_shape: dict[str, ShapeSpec]) -> "nn.Module":
    """The head that ``cfg.MODEL.IRNET[key]`` names; ``key`` is "BOUNDARY_HEAD", say."""
    head = look_up(RELATION_HEAD_REGISTRY, cfg.MODEL.IRNET[key], f"MODEL.IRNET.{key}")
    return head(cfg, input_shape)


def _project(in_channels: int, out_channels: int, groups: int) -> Conv2d:
    norm = nn.GroupNorm(groups, out_channels)
    return Conv2d(in_channels, out_channels, 1, bias=False, norm=norm)


@RELATION_HEAD_REGISTRY.register()
class BoundaryHead(nn.Module):
    """Class boundary logits: every level, reduced to a few channels, votes with equal weight."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        stride: int,
        channels: int = 32,
        groups: int = 4,
    ):
        """
        Args:
            input_shape: channels and stride of each feature, finest first.
            stride: of the output.
            channels: of each level.
            groups: of the group normalisation.
        """
        super().__init__()
        self.strides = {name: shape.stride for name, shape in input_shape.items()}
        self.stride = stride
        self.levels = nn.ModuleDict(
            {
                name: _project(shape.channels, channels, groups)
                for name, shape in input_shape.items()
            }
        )
        self.predictor = Conv2d(channels * len(input_shape), 1, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return {"input_shape": input_shape, "stride": cfg.MODEL.IRNET.STRIDE}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features of each level to logits (N, 1, h, w); see the registry."""
        maps = [
            F.relu(resample(level(features[name]), self.strides[name], self.stride))
            for name, level in self.levels.items()
        ]
        return self.predictor(concatenate(maps, maps[0].shape[-2:]))


@RELATION_HEAD_REGISTRY.register()
class DisplacementHead(nn.Module):
    """Displacement field: a top-down branch with a larger field of view than the boundary head's.

    All levels but the first two are merged at the stride of the third, then with these two.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        stride: int,
        fine_channels: Sequence[int] = (64, 128),
        fine_groups: Sequence[int] = (8, 16),
        channels: int = 256,
        groups: int = 16,
    ):
        """
        Args:
            input_shape: channels and stride of each feature, finest first; at least three.
            stride: of the output.
            fine_channels, fine_groups: channels of the first two levels and groups of their
                normalisation.
            channels, groups: the same of all others and after merging.

        Raises:
            UserError: there are fewer than three features.
        """
        super().__init__()
        if len(input_shape) < 3:
            raise UserError(
                f"MODEL.IRNET.IN_FEATURES names {', '.join(input_shape)}: DisplacementHead needs "
                "at least three features"
            )
        self.strides = {name: shape.stride for name, shape in input_shape.items()}
        self.stride = stride
        names = list(input_shape)
        self.fine, self.coarse = names[:2], names[2:]
        num_coarse = len(self.coarse)
        widths = [*zip(fine_channels, fine_groups), *[(channels, groups)] * num_coarse]
        self.levels = nn.ModuleDict(
            {
                name: _project(shape.channels, *width)
                for (name, shape), width in zip(input_shape.items(), widths)
            }
        )
        self.merge_coarse = _project(channels * num_coarse, channels, groups)
        self.merge = _project(sum(fine_channels) + channels, channels, groups)
        self.predictor = Conv2d(channels, 2, 1, bias=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return {"input_shape": input_shape, "stride": cfg.MODEL.IRNET.STRIDE}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features of each level to displacements (N, 2, h, w); see the registry."""
        coarse_stride = self.strides[self.coarse[0]]
        maps = [self._level(features, name, coarse_stride) for name in self.coarse]
        coarse = self.add_context(self.merge_coarse(concatenate(maps, maps[0].shape[-2:])))
        maps = [self._level(features, name, self.stride) for name in self.fine]
        maps.append(F.relu(resample(coarse, coarse_stride, self.stride)))
        return self.predictor(F.relu(self.merge(concatenate(maps, maps[0].shape[-2:]))))

    def add_context(self, coarse: Tensor) -> Tensor:
        """Hook of subclasses: (N, channels, h, w) at the stride of the third level, as it is."""
        return coarse

    def _level(self, features: dict[str, Tensor], name: str, stride: int) -> Tensor:
        return F.relu(resample(self.levels[name](features[name]), self.strides[name], stride))


@RELATION_HEAD_REGISTRY.register()
class ContextDisplacementHead(DisplacementHead):
    """A displacement head that looks around, for backbones that see less than a ResNet-50.

    Where the centre of an object lies can only be told from its surroundings, and the published
    head sees one cell at a time, through the backbone's receptive field. Here the coarse branch
    takes in its surroundings by itself: residual blocks of depthwise 5x5 convolutions at the stride
    of the last level. (On a MobileNetV2 the published head learnt the vertical part of the field
    alone; see MODEL_ZOO.md.)

    The blocks must not see the whole image: a field that points at the image's centre from
    everywhere has no loss either, and zero padding would tell where that is. So they are few, and
    pad by the border's values.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        stride: int,
        channels: int = 256,
        groups: int = 16,
        dilations: Sequence[int] = (1, 1),
        **kwargs,
    ):
        """
        Args:
            input_shape, stride, channels, groups, kwargs: see :class:`DisplacementHead`.
            dilations: of the blocks, one after the other.
        """
        super().__init__(
            input_shape=input_shape, stride=stride, channels=channels, groups=groups, **kwargs
        )
        self.context = nn.ModuleList(
            nn.Sequential(
                _depthwise(channels, dilation), _project(channels, channels, groups), nn.ReLU()
            )
            for dilation in dilations
        )

    def add_context(self, coarse: Tensor) -> Tensor:
        """(N, channels, h, w) at the stride of the third level, with its surroundings added."""
        stride, context_stride = (self.strides[self.coarse[i]] for i in (0, -1))
        context = F.relu(resample(coarse, stride, context_stride))
        for block in self.context:
            context = context + block(context)
        height, width = coarse.shape[-2:]
        return coarse + resample(context, context_stride, stride)[..., :height, :width]


def _depthwise(channels: int, dilation: int) -> Conv2d:
    return Conv2d(
        channels,
        channels,
        5,
        padding=2 * dilation,
        padding_mode="replicate",
        dilation=dilation,
        groups=channels,
        bias=False,
    )
