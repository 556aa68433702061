"""Class activation maps over scales and mirror images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from torch import Tensor, nn

from ..errors import UserError
from ..layers import correlate_pixels
from ..modeling import CAMClassifier
from .image_size import reduce_image

# A class without any evidence has a maximum of 0 (as published).
_EPSILON = 1e-5


@torch.no_grad()
def multi_scale_cams(
    classifier: CAMClassifier,
    image: Tensor,
    image_labels: Tensor | Sequence[int],
    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0),
    flip: bool = True,
    stride: int = 4,
    correlation_features: Sequence[str] = (),
    correlation_power: float = 3.0,
    grid_size: tuple[int, int] | None = None,
) -> Tensor:
    """The summed CAMs of an image at several scales, and of their mirror images.

    Source: the released code of IRNet (Ahn et al., CVPR 2019). The image is resized bicubically,
    each map bilinearly to the grid of the result, and the sum is divided by its maximum.

    With features to correlate, each map is first averaged over the pixels that look alike in them
    (:func:`~wsis_d2.layers.correlate_pixels`). That lifts the background, which always has
    something in common with the object, so the minimum of the sum is then subtracted.

    Args:
        classifier: any network with ``preprocess``, ``class_activation_maps`` and ``stride``; to
            correlate features a :class:`~wsis_d2.modeling.CAMClassifier`.
        image: (3, H, W) in 0 .. 255, as a mapper gives it.
        image_labels: (K,) contiguous ids of the classes in the image.
        scales: factors on the sides of the image.
        flip: whether to add the maps of the mirrored images.
        stride: stride of the result.
        correlation_features: names of features of the classifier's backbone; none: CAMs as
            published.
        correlation_power: see :func:`~wsis_d2.layers.correlate_pixels`.
        grid_size: (H, W) of the image that the result is for, where ``image`` is a reduced one;
            None: that of ``image``.

    Returns:
        (K, h, w) float32 in [0, 1), the maximum of each about 1, in the order of ``image_labels``;
        h = (H - 1) // stride + 1, w likewise. On the classifier's device.
    """
    height, width = grid_size or image.shape[1:]
    grid = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    labels = torch.as_tensor(image_labels, dtype=torch.int64)
    image = image.to(classifier.pixel_mean.device, torch.float32)
    total = image.new_zeros(len(labels), *grid)
    for scale in scales:
        scaled = _rescale(image, scale)
        views = [scaled, scaled.flip(-1)] if flip else [scaled]
        maps, features = _class_activation_maps(classifier, views, correlation_features)
        maps = maps[:, labels.to(image.device)].float()
        if features:
            maps = correlate_pixels(maps, features, correlation_power)
        cams = maps[0] + maps[1].flip(-1) if flip else maps[0]
        total += F.interpolate(cams[None], grid, mode="bilinear", align_corners=False)[0]
    if correlation_features:
        total -= total.amin((1, 2), keepdim=True)
    return total / (total.amax((1, 2), keepdim=True) + _EPSILON)


def _rescale(image: Tensor, scale: float) -> Tensor:
    """Resize as Pillow does: antialiased, to whole gray values."""
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    resized = F.interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255)


def _class_activation_maps(
    classifier: CAMClassifier, images: list[Tensor], features: Sequence[str]
) -> tuple[Tensor, list[Tensor]]:
    """(N, num_classes, h, w) CAMs of images of one size and features, without those of padding."""
    batch = classifier.preprocess([{"image": image} for image in images])
    size = images[0].shape[1:]
    if not features:
        return _crop(classifier.class_activation_maps(batch.tensor), classifier.stride, size), []
    maps, found = classifier.class_activation_maps_and_features(batch.tensor, features)
    strides = (classifier.backbone.output_shape()[name].stride for name in features)
    return (
        _crop(maps, classifier.stride, size),
        [_crop(feature.float(), stride, size) for feature, stride in zip(found, strides)],
    )


def _crop(maps: Tensor, stride: int, image_size: Sequence[int]) -> Tensor:
    height, width = (-(-side // stride) for side in image_size)
    return maps[..., :height, :width]


class MultiScaleCAM(nn.Module):
    """A trained classifier as an inference model that gives CAMs; see :func:`multi_scale_cams`.

    Input: the standard list of dicts with ``image`` at its original size, ``image_labels``,
    ``height`` and ``width``. Output: per image ``{"cam": (K, h, w), "class_ids": (K,)}``.
    """

    @configurable
    def __init__(
        self,
        *,
        classifier: nn.Module,
        scales: Sequence[float],
        flip: bool,
        stride: int,
        correlation_features: Sequence[str] = (),
        correlation_power: float = 3.0,
        max_pixels: int = 0,
    ):
        """
        Args:
            classifier: a :class:`~wsis_d2.modeling.CAMClassifier`.
            scales, flip, stride, correlation_features, correlation_power: see
                :func:`multi_scale_cams`.
            max_pixels: larger images are reduced to so many, their CAMs have the same grid all the
                same; 0: none are.

        Raises:
            UserError: the network gives no CAMs or no features to correlate, there is no scale, or
                the power is not positive.
        """
        super().__init__()
        if not hasattr(classifier, "class_activation_maps"):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is '{type(classifier).__name__}', which gives no class "
                "activation maps: use the config of a CAMClassifier"
            )
        if correlation_features and not hasattr(classifier, "class_activation_maps_and_features"):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is '{type(classifier).__name__}', which does not give "
                "the features of CAM.CORRELATION.FEATURES: use a CAMClassifier, or set it to ()"
            )
        if not scales or min(scales) <= 0:
            raise UserError(f"CAM.SCALES is {tuple(scales)}: give one or more factors above 0")
        if correlation_power <= 0:
            raise UserError(f"CAM.CORRELATION.POWER is {correlation_power}: give a number above 0")
        self.classifier = classifier
        self.scales = tuple(scales)
        self.flip = flip
        self.stride = stride
        self.correlation_features = tuple(correlation_features)
        self.correlation_power = correlation_power
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL`` and ``CAM``.

        Raises:
            UserError: the config resizes images at test time.
        """
        if cfg.INPUT.IMAGE_LEVEL.RESIZE_TEST != "none":
            raise UserError(
                f"INPUT.IMAGE_LEVEL.RESIZE_TEST is '{cfg.INPUT.IMAGE_LEVEL.RESIZE_TEST}', but CAMs "
                "are of the original image at CAM.SCALES: set it to 'none'"
            )
        return {
            "classifier": build_model(cfg),
            "scales": cfg.CAM.SCALES,
            "flip": cfg.CAM.FLIP,
            "stride": cfg.CAM.STRIDE,
            "correlation_features": cfg.CAM.CORRELATION.FEATURES,
            "correlation_power": cfg.CAM.CORRELATION.POWER,
            "max_pixels": cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST,
        }

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """See the class.

        Raises:
            UserError: an image has no class label.
        """
        return [self._cams(x) for x in batched_inputs]

    def _cams(self, x: dict) -> dict[str, Tensor]:
        labels = x.get("image_labels")
        if labels is None or not len(labels):
            raise UserError(
                f"image '{x.get('file_name')}' has no label: label it or remove it from the dataset"
            )
        cam = multi_scale_cams(
            self.classifier,
            reduce_image(x["image"], self.max_pixels),
            labels,
            self.scales,
            self.flip,
            self.stride,
            self.correlation_features,
            self.correlation_power,
            tuple(x["image"].shape[1:]),
        )
        return {"cam": cam, "class_ids": torch.as_tensor(labels, dtype=torch.int64)}
