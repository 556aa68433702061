"""IRNet: class boundaries and displacements to centroids, on a frozen classifier backbone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..layers import irnet_losses
from .features import select_features
from .relation_heads import build_relation_head
from .seeds import batch_seeds, check_map_size

__all__ = ["IRNet"]

#: Weights of the losses in the total L_B / 2 + (L_fg + L_bg) / 2, where L_B is half of each
#: positive term plus the negative one.
LOSS_WEIGHTS = {
    "loss_bg_pos": 1 / 4,
    "loss_fg_pos": 1 / 4,
    "loss_neg": 1 / 2,
    "loss_dp_fg": 1 / 2,
    "loss_dp_bg": 1 / 2,
}


@META_ARCH_REGISTRY.register()
class IRNet(nn.Module):
    """Inter-pixel relations, learnt from seeds.

    Source: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
    Relations", CVPR 2019, section 4. Only the two heads learn; the backbone stays as it was loaded,
    its normalisation included.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        boundary_head: nn.Module,
        displacement_head: nn.Module,
        stride: int,
        radius: int,
        test_size: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        """
        Args:
            backbone: a Detectron2 backbone; its parameters are frozen here.
            in_features: names of its features that the heads read.
            boundary_head, displacement_head: see ``RELATION_HEAD_REGISTRY``.
            stride: of the maps that the heads give.
            radius: pairs of cells closer than this are related in training.
            test_size: sides shorter than this are zero-padded to it in inference.
            pixel_mean, pixel_std: per channel, to normalise the input image.
        """
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.in_features = tuple(in_features)
        self.boundary_head = boundary_head
        self.displacement_head = displacement_head
        self.stride = stride
        self.radius = radius
        self.test_size = test_size
        #: Mean (dy, dx) of the raw displacements over the training images, set when training ends.
        self.register_buffer("mean_displacement", torch.zeros(2))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        irnet = cfg.MODEL.IRNET
        backbone = build_backbone(cfg)
        shapes = select_features(backbone, irnet.IN_FEATURES, "MODEL.IRNET.IN_FEATURES")
        return {
            "backbone": backbone,
            "in_features": irnet.IN_FEATURES,
            "boundary_head": build_relation_head(cfg, "BOUNDARY_HEAD", shapes),
            "displacement_head": build_relation_head(cfg, "DISPLACEMENT_HEAD", shapes),
            "stride": irnet.STRIDE,
            "radius": irnet.RADIUS,
            "test_size": irnet.TEST_SIZE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "IRNet":
        """As in :class:`torch.nn.Module`, but the backbone always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def normalise(self, image: Tensor) -> Tensor:
        """(C, H, W), 0 to 255, to the backbone's range."""
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Features of normalised images (N, C, H, W), without gradients."""
        with torch.no_grad():
            features = self.backbone(images)
        return {name: features[name] for name in self.in_features}

    def relations(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads give.

        Args:
            images: (N, C, H, W), normalised.

        Returns:
            Logits (N, 1, h, w) of the class boundary and raw displacements (N, 2, h, w) in cells,
            dy before dx; h = ceil(H / stride), w = ceil(W / stride).
        """
        features = self.features(images)
        return self.boundary_head(features), self.displacement_head(features)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255.
                * sem_seg: (H, W) seeds, in training only: 0 background, c + 1 class c, 255 unknown.

        Returns:
            In training the five losses of :func:`wsis_d2.layers.irnet_losses`, weighted so that
            their sum is its total. Else per image ``{"boundary": (h, w) in 0..1, "displacement":
            (2, h, w) in cells}``, where h = ceil(H / stride); they do not depend on the images that
            share the batch.

        Raises:
            UserError: a training image came without seeds, or all of a batch are too small.
        """
        if not self.training:
            return [self._inference(x["image"]) for x in batched_inputs]
        images = ImageList.from_tensors(
            [self.normalise(x["image"]) for x in batched_inputs], self.backbone.size_divisibility
        )
        boundary_logits, displacement = self.relations(images.tensor)
        seeds = batch_seeds(batched_inputs, boundary_logits.shape[-2:], self.stride)
        check_map_size(seeds, self.radius, self.stride)
        losses = irnet_losses(
            boundary_logits.float(), displacement.float(), seeds.to(self.device), self.radius
        )
        return {name: weight * losses[name] for name, weight in LOSS_WEIGHTS.items()}

    def raw_displacements(self, batched_inputs: list[dict]) -> list[Tensor]:
        """(2, h, w) displacements of each image, in cells, before the mean is subtracted.

        As published for the mean, the field is that of the whole padded image, of
        ``MODEL.IRNET.TEST_SIZE`` at least.
        """
        return [
            self.displacement_head(self.features(self._pad(self.normalise(x["image"])[None])))[0]
            for x in batched_inputs
        ]

    def _inference(self, image: Tensor) -> dict[str, Tensor]:
        normalised = self.normalise(image)
        # Mirrored before it is padded: both have the padding at the right.
        pair = self._pad(torch.stack([normalised, normalised.flip(-1)]))
        features = self.features(pair)
        logits = self._crop(self.boundary_head(features), image)[:, 0].float()
        own = {name: feature[:1] for name, feature in features.items()}
        displacement = self._crop(self.displacement_head(own), image)[0].float()
        return {
            "boundary": ((logits[0] + logits[1].flip(-1)) / 2).sigmoid(),
            "displacement": displacement - self.mean_displacement.view(2, 1, 1),
        }

    def _pad(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, bottom = max(self.test_size - width, 0), max(self.test_size - height, 0)
        divisibility = max(self.backbone.size_divisibility, 1)
        right += -(width + right) % divisibility
        bottom += -(height + bottom) % divisibility
        return F.pad(images, (0, right, 0, bottom))

    def _crop(self, maps: Tensor, image: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in image.shape[-2:])
        return maps[..., :height, :width]
