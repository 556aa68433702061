"""Image classifiers whose class evidence says where the objects are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.layers import Conv2d
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..errors import UserError
from ..layers import peak_stimulation
from ..layers.peak_stimulation import peak_scores

__all__ = ["CAMClassifier", "PRMClassifier"]


class ImageClassifier(nn.Module, ABC):
    """A fully convolutional multi-label classifier: the common part of the two below.

    A 1x1 convolution, ``classifier``, turns a feature of the backbone into class response maps; a
    subclass aggregates them to one score (logit) per class. Parameters of the pre-trained part are
    those that begin with ``backbone.``; all others are new to the task.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        bias: bool,
    ):
        """
        Args:
            backbone: a Detectron2 backbone.
            in_feature: name of the backbone's feature that the classifier reads.
            num_classes: number of classes.
            pixel_mean, pixel_std: per channel, to normalise the input image.
            bias: whether the 1x1 convolution has a bias.

        Raises:
            UserError: the backbone has no such feature.
        """
        super().__init__()
        features = backbone.output_shape()
        if in_feature not in features:
            raise UserError(
                f"MODEL.CLASSIFIER.IN_FEATURE is '{in_feature}', but the backbone gives "
                f"{', '.join(features)}: name one of these, or add it to its OUT_FEATURES"
            )
        self.backbone = backbone
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.stride = features[in_feature].stride
        self.classifier = Conv2d(features[in_feature].channels, num_classes, 1, bias=bias)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "backbone": build_backbone(cfg),
            "in_feature": cfg.MODEL.CLASSIFIER.IN_FEATURE,
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES or _num_classes_of_dataset(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the "image" of each input and pad them to one (N, C, H, W) batch."""
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def class_response_maps(self, images: Tensor) -> Tensor:
        """Evidence for each class at each place.

        Args:
            images: (N, C, H, W), normalised, as :meth:`preprocess` gives them.

        Returns:
            (N, num_classes, H / stride, W / stride), sizes rounded up; unbounded.
        """
        return self.classifier(self.backbone(images)[self.in_feature])

    @abstractmethod
    def aggregate(self, maps: Tensor) -> Tensor:
        """Class response maps (N, num_classes, h, w) without padding to logits (N, num_classes)."""

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255.
                * image_labels: (K,) int64 class ids, in training only.

        Returns:
            In training ``{"loss_cls": multi-label soft margin loss}``, the mean over images and
            classes. Else a list of ``{"image_scores": (num_classes,) probabilities}``; they do not
            depend on the images that share the batch.

        Raises:
            UserError: a training image has no "image_labels", or one that is not a class.
        """
        if self.training:
            targets = self._targets(batched_inputs).to(self.device)
            return {
                "loss_cls": F.multilabel_soft_margin_loss(self._logits(batched_inputs), targets)
            }
        # Around a padded image a convolution sees features of the padding, not zeros.
        same_size = len({x["image"].shape for x in batched_inputs}) == 1
        batches = [batched_inputs] if same_size else [[x] for x in batched_inputs]
        logits = torch.cat([self._logits(batch) for batch in batches])
        return [{"image_scores": scores} for scores in logits.sigmoid()]

    def _logits(self, batched_inputs: list[dict]) -> Tensor:
        images = self.preprocess(batched_inputs)
        # Sums over many pixels, and the order of peaks, want full precision.
        maps = self.class_response_maps(images.tensor).float()
        extents = [tuple(-(-side // self.stride) for side in size) for size in images.image_sizes]
        if all(extent == maps.shape[-2:] for extent in extents):
            return self.aggregate(maps)
        # Padding must not count.
        return torch.cat([self.aggregate(m[None, :, :h, :w]) for m, (h, w) in zip(maps, extents)])

    def _targets(self, batched_inputs: list[dict]) -> Tensor:
        """(N, num_classes) float on the CPU: 1 for the classes of each image, else 0."""
        targets = torch.zeros(len(batched_inputs), self.num_classes)
        for target, x in zip(targets, batched_inputs):
            name = x.get("file_name", "an image without a file name")
            if "image_labels" not in x:
                raise UserError(
                    f"{name} came to training without 'image_labels': set DATASETS.SUPERVISION "
                    "to 'image_labels' and train on a dataset that has them"
                )
            labels = torch.as_tensor(x["image_labels"], dtype=torch.int64)
            wrong = labels[(labels < 0) | (labels >= self.num_classes)].tolist()
            if wrong:
                raise UserError(
                    f"{name} has the class id {wrong[0]}, but the model has {self.num_classes} "
                    "classes (ids from 0): check MODEL.CLASSIFIER.NUM_CLASSES and the dataset"
                )
            target[labels.to(target.device)] = 1
        return targets


@META_ARCH_REGISTRY.register()
class CAMClassifier(ImageClassifier):
    """Global average pooling of a bias-free linear classifier: its evidence maps are CAMs.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016,
    section 2. The net of IRNet (Ahn et al., CVPR 2019) stops gradients after its third block of
    layers (conv1 to res3): ``MODEL.BACKBONE.FREEZE_AT = 3``.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "bias": False}

    def aggregate(self, maps: Tensor) -> Tensor:
        # Pooling and the classifier are linear, so either may come first.
        return maps.mean((2, 3))

    def class_activation_maps(self, images: Tensor) -> Tensor:
        """CAMs, not normalised by their maximum.

        Args:
            images: (N, C, H, W), normalised, as :meth:`preprocess` gives them.

        Returns:
            (N, num_classes, H / stride, W / stride), at least 0.
        """
        return self.class_response_maps(images).relu()

    def class_activation_maps_and_features(
        self, images: Tensor, names: Sequence[str]
    ) -> tuple[Tensor, list[Tensor]]:
        """:meth:`class_activation_maps`, and the features of the backbone with these names.

        Raises:
            UserError: the backbone has no such feature.
        """
        features = self.backbone(images)
        missing = [name for name in names if name not in features]
        if missing:
            raise UserError(
                f"CAM.CORRELATION.FEATURES names {', '.join(missing)}, but the backbone gives "
                f"{', '.join(features)}: name some of these, or add it to its OUT_FEATURES"
            )
        maps = self.classifier(features[self.in_feature])
        return maps.relu(), [features[name] for name in names]


@META_ARCH_REGISTRY.register()
class PRMClassifier(ImageClassifier):
    """A classifier that is trained on the peaks of its class response maps.

    Source: Zhou et al., "Weakly Supervised Instance Segmentation using Class Peak Response", CVPR
    2018, section 3.1. ``class_response_maps`` is the network for
    :func:`wsis_d2.layers.peak_response_maps`, with ``upsample`` as its factor.
    """

    @configurable
    def __init__(
        self,
        *,
        upsample: int = 8,
        window: int = 3,
        peak_threshold: str | float | None = "median",
        **kwargs,
    ):
        """
        Args:
            upsample: class response maps are upsampled by this factor before peaks are sought.
            window, peak_threshold: see :func:`wsis_d2.layers.find_peaks`.
            kwargs: see :class:`ImageClassifier`.
        """
        super().__init__(**kwargs)
        self.upsample = upsample
        self.window = window
        self.peak_threshold = peak_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        prm = cfg.MODEL.PRM
        return {
            **super().from_config(cfg),
            "bias": True,
            "upsample": prm.UPSAMPLE,
            "window": prm.WINDOW,
            "peak_threshold": None if prm.FILTER == "none" else prm.FILTER,
        }

    def stimulate(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Peaks and their scores.

        Args:
            maps: (N, num_classes, h, w), as :meth:`class_response_maps` gives them.

        Returns:
            Logits (N, num_classes); peaks (P, 4) int64: image, class, y, x in the maps upsampled
            by ``upsample``; and the responses (P,) there.
        """
        maps = self._upsample(maps)
        logits, peaks = peak_stimulation(maps, self.window, self.peak_threshold)
        return logits, peaks, maps[tuple(peaks.T)]

    def aggregate(self, maps: Tensor) -> Tensor:
        return peak_scores(self._upsample(maps), self.window, self.peak_threshold)

    def _upsample(self, maps: Tensor) -> Tensor:
        if self.upsample == 1:
            return maps
        return F.interpolate(maps, scale_factor=self.upsample, mode="bilinear", align_corners=True)


def _num_classes_of_dataset(cfg: CfgNode) -> int:
    if not cfg.DATASETS.TRAIN:
        raise UserError(
            "the number of classes is unknown: name a dataset in DATASETS.TRAIN, or set "
            "MODEL.CLASSIFIER.NUM_CLASSES"
        )
    name = cfg.DATASETS.TRAIN[0]
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise UserError(
            f"the metadata of the dataset '{name}' name no classes (thing_classes): check "
            "DATASETS.TRAIN, or set MODEL.CLASSIFIER.NUM_CLASSES"
        )
    return len(classes)
