"""From a dataset dict with a label map to the input of a semantic segmentation model."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ...errors import UserError
from ..augmentation import ColorPadTransform
from ..image_files import read_dataset_image
from ..image_labels import image_keys
from ..label_maps import UNKNOWN, read_label_map

__all__ = ["SemSegMapper"]

logger = logging.getLogger(__name__)


class PadToMultiple(T.Augmentation):
    """Pad at the right and the bottom, so that both sides are multiples of a stride.

    Detectron2's heads compare the labels with scores that are upsampled by a whole stride.
    """

    def __init__(self, stride: int, color: Sequence[float]):
        """
        Args:
            stride: in pixels.
            color: color of the padding, in the channel order of the image; labels there are 255.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an ``(H, W, C)`` image."""
        bottom, right = (-length % self.stride for length in image.shape[:2])
        return ColorPadTransform(0, 0, right, bottom, self.color)


class SemSegMapper:
    """From a dataset dict with a label map to the input of a semantic segmentation model.

    Detectron2's own mapper turns the colours of a palette PNG into gray values; this one reads its
    labels. The augmentations are the stock ones; a crop (INPUT.CROP) comes after resizing, as in
    Detectron2's DeepLab, so that an absolute size is that of the model's input. In training the
    sides are then padded to multiples of MODEL.SEM_SEG_HEAD.COMMON_STRIDE.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        num_classes: int,
    ):
        """
        Args:
            is_train: training or inference; label maps are read in training alone.
            augmentations: applied in this order, to the image and its label map.
            image_format: channel order, as in :func:`wsis_d2.images.read_image`.
            num_classes: with the background: labels are below, or 255.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        mode = "training" if is_train else "inference"
        logger.info("Augmentations in %s: %s", mode, list(augmentations))

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP
        if is_train and crop.ENABLED:
            augmentations.insert(
                1,
                T.RandomCrop_CategoryAreaConstraint(
                    crop.TYPE,
                    crop.SIZE,
                    crop.get("SINGLE_CATEGORY_MAX_AREA", 1.0),  # a key of DeepLab
                    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
                ),
            )
        if is_train:
            stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
            augmentations.append(PadToMultiple(stride, cfg.MODEL.PIXEL_MEAN))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image of a dataset; it is not changed.

        Returns:
            A dict with ``image`` ((C, H, W) tensor, uint8 for color formats), in training
            ``sem_seg`` ((H, W) int64 labels), and ``height`` and ``width`` (of the image as it is
            on disk), ``file_name`` and ``image_id``.

        Raises:
            UserError: the image or its label map is absent, unreadable or of another size than the
                other or the dataset says, or a label is of no class.
        """
        model_input = image_keys(dataset_dict)
        image = read_dataset_image(model_input, self.image_format)
        label_map = self._read_label_map(dataset_dict, image) if self.is_train else None

        augmentation_input = T.AugInput(image, sem_seg=label_map)
        self.augmentations(augmentation_input)
        image, label_map = augmentation_input.image, augmentation_input.sem_seg
        model_input["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if label_map is not None:
            model_input["sem_seg"] = torch.as_tensor(label_map.astype(np.int64))
        return model_input

    def _read_label_map(self, dataset_dict: dict, image: np.ndarray) -> np.ndarray:
        path = dataset_dict["sem_seg_file_name"]
        label_map = read_label_map(path)
        if label_map.shape != image.shape[:2]:
            raise UserError(
                f"label map '{path}' has the size {label_map.shape} (height, width), but image "
                f"'{dataset_dict['file_name']}' has {image.shape[:2]}: replace the wrong one"
            )
        largest = label_map.max(where=label_map != UNKNOWN, initial=0)
        if largest >= self.num_classes:
            raise UserError(
                f"label map '{path}' has the label {largest}, but the model has {self.num_classes} "
                "classes with the background: check that labels and class names belong together"
            )
        return label_map
