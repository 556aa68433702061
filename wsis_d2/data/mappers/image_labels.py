"""From a dataset dict to the input of a model that may see image-level labels alone."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from ...errors import UserError
from ..augmentation import build_image_level_augmentation
from ..image_files import read_dataset_image
from ..image_labels import make_image_level

__all__ = ["ImageLabelMapper"]

logger = logging.getLogger(__name__)


class ImageLabelMapper:
    """Reads and augments an image; passes on its class labels, maybe lower counts, nothing else.

    Takes any dataset dict of Detectron2. Where it has no ``image_labels`` but ``annotations``
    (a stock instance dataset), the categories of these become the labels. Annotations, masks,
    boxes, semantic maps and keys that are not known here never reach the output.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        max_count: int | None = None,
    ):
        """
        Args:
            is_train: training or inference.
            augmentations: applied in this order.
            image_format: channel order, as in :func:`wsis_d2.images.read_image`.
            max_count: pass on the lower counts of the labels too, see :func:`make_image_level`;
                None: no counts.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.max_count = max_count
        mode = "training" if is_train else "inference"
        logger.info("Augmentations in %s: %s", mode, list(augmentations))

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return {
            "is_train": is_train,
            "augmentations": build_image_level_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image of a dataset; it is not changed.

        Returns:
            A dict with ``image`` ((C, H, W) tensor, uint8 for color formats), ``image_labels``
            ((K,) int64 tensor of contiguous class ids; at test time only where the dataset knows
            them), ``height`` and ``width`` (of the image as it is on disk, upright),
            ``file_name`` and ``image_id``; with ``max_count`` also ``image_counts`` ((K,) int64
            tensor that goes with the labels, 0 where unknown; where the dataset has counts).

        Raises:
            UserError: the image is absent, unreadable or of another size than the dataset says, or
                has no label in training.
        """
        (model_input,) = make_image_level([dataset_dict], self.max_count)
        labels = model_input.pop("image_labels", None)
        if self.is_train and not labels:
            raise UserError(
                f"image '{model_input['file_name']}' has no label: label it or remove it from the "
                "dataset"
            )
        if labels is not None:
            model_input["image_labels"] = torch.tensor(labels, dtype=torch.int64)
        if "image_counts" in model_input:
            counts = torch.tensor(model_input["image_counts"], dtype=torch.int64)
            model_input["image_counts"] = counts

        augmentation_input = T.AugInput(read_dataset_image(model_input, self.image_format))
        self.augmentations(augmentation_input)
        image = augmentation_input.image
        model_input["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return model_input
