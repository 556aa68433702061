"""AffinityNet: features whose distance says whether two pixels are of one class."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..errors import UserError
from ..layers import affinitynet_losses
from .features import concatenate, resample, select_features
from .seeds import batch_seeds, check_map_size

__all__ = ["AffinityNet"]

#: Weights of the losses in their total.
LOSS_WEIGHTS = {"loss_bg_pos": 1 / 4, "loss_fg_pos": 1 / 4, "loss_neg": 1 / 2}


@META_ARCH_REGISTRY.register()
class AffinityNet(nn.Module):
    """Semantic affinities between neighbouring pixels, learnt from seeds.

    Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for
    Weakly Supervised Semantic Segmentation", CVPR 2018, section 3.3. The affinity of two pixels is
    exp(-mean_c |f_i - f_j|) of the features that this net gives; see
    :func:`wsis_d2.layers.feature_affinity`.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        input_shape: dict[str, ShapeSpec],
        channels: Sequence[int],
        stride: int,
        radius: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        """
        Args:
            backbone: a Detectron2 backbone.
            input_shape: of each of its features that is read.
            channels: that each of these is reduced to; the output has their sum.
            stride: of the output.
            radius: pairs of cells closer than this are related in training.
            pixel_mean, pixel_std: per channel, to normalise the input image.

        Raises:
            UserError: there are not as many ``channels`` as features.
        """
        super().__init__()
        if len(channels) != len(input_shape):
            raise UserError(
                f"MODEL.AFFINITYNET.CHANNELS has {len(channels)} numbers for the "
                f"{len(input_shape)} features {', '.join(input_shape)}: give one for each"
            )
        self.backbone = backbone
        self.strides = {name: shape.stride for name, shape in input_shape.items()}
        self.levels = nn.ModuleDict(
            {
                name: Conv2d(shape.channels, width, 1, bias=False)
                for (name, shape), width in zip(input_shape.items(), channels)
            }
        )
        self.merge = Conv2d(sum(channels), sum(channels), 1, bias=False)
        for level in self.levels.values():
            nn.init.kaiming_normal_(level.weight)
        nn.init.xavier_uniform_(self.merge.weight, gain=4)
        self.stride = stride
        self.radius = radius
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        affinitynet = cfg.MODEL.AFFINITYNET
        backbone = build_backbone(cfg)
        key = "MODEL.AFFINITYNET.IN_FEATURES"
        return {
            "backbone": backbone,
            "input_shape": select_features(backbone, affinitynet.IN_FEATURES, key),
            "channels": affinitynet.CHANNELS,
            "stride": affinitynet.STRIDE,
            "radius": affinitynet.RADIUS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the images and zero-pad them to one batch of whole cells, (N, C, H, W)."""
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        divisibility = math.lcm(self.stride, max(self.backbone.size_divisibility, 1))
        return ImageList.from_tensors(images, divisibility)

    def affinity_features(self, images: Tensor) -> Tensor:
        """Features of normalised images (N, C, H, W), whole cells: (N, sum of channels, h, w)."""
        features = self.backbone(images)
        size = tuple(side // self.stride for side in images.shape[-2:])
        maps = [
            resample(F.elu(level(features[name])), self.strides[name], self.stride)
            for name, level in self.levels.items()
        ]
        return F.elu(self.merge(concatenate(maps, size)))

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255.
                * sem_seg: (H, W) seeds, in training only: 0 background, c + 1 class c, 255 unknown.

        Returns:
            In training the three losses of :func:`wsis_d2.layers.affinitynet_losses`, weighted so
            that their sum is its total. Else per image ``{"features": (C, h, w)}``, where h =
            ceil(H / stride); they do not depend on the images that share the batch.

        Raises:
            UserError: a training image came without seeds, or all of a batch are too small.
        """
        if not self.training:
            return [{"features": self._inference(x)} for x in batched_inputs]
        features = self.affinity_features(self.preprocess(batched_inputs).tensor)
        seeds = batch_seeds(batched_inputs, features.shape[-2:], self.stride)
        check_map_size(seeds, self.radius, self.stride)
        losses = affinitynet_losses(features.float(), seeds.to(self.device), self.radius)
        return {name: weight * losses[name] for name, weight in LOSS_WEIGHTS.items()}

    def _inference(self, x: dict) -> Tensor:
        height, width = (-(-side // self.stride) for side in x["image"].shape[-2:])
        features = self.affinity_features(self.preprocess([x]).tensor)[0]
        return features[:, :height, :width].float()
