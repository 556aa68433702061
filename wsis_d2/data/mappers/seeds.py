"""From a dataset dict to the input of a model that is trained on an image's seeds."""

import numpy as np
import torch
from detectron2.data import transforms as T

from ...errors import UserError
from ..image_files import read_dataset_image
from ..image_labels import image_keys
from ..label_maps import read_label_map
from .image_labels import ImageLabelMapper

__all__ = ["SeedMapper"]


class SeedMapper(ImageLabelMapper):
    """Reads an image and its seeds and augments both alike; nothing else passes."""

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image of :func:`wsis_d2.data.add_seed_files`; it is not changed.

        Returns:
            A dict with ``image`` ((C, H, W) tensor, uint8 for color formats), ``sem_seg`` ((H, W)
            uint8 tensor: 0 background, c + 1 class c, 255 unknown), ``height`` and ``width`` (of
            the image as it is on disk, upright), ``file_name`` and ``image_id``.

        Raises:
            UserError: the image or its seeds are absent, unreadable or of different sizes.
        """
        model_input = image_keys(dataset_dict)
        image = read_dataset_image(model_input, self.image_format)
        seeds = read_label_map(dataset_dict["sem_seg_file_name"])
        if seeds.shape != image.shape[:2]:
            raise UserError(
                f"the seeds '{dataset_dict['sem_seg_file_name']}' have the size {seeds.shape} "
                f"(height, width), but their image has {image.shape[:2]}: make them again with "
                "tools/make_seeds.py"
            )
        augmentation_input = T.AugInput(image, sem_seg=seeds)
        self.augmentations(augmentation_input)
        pixels = augmentation_input.image.transpose(2, 0, 1)
        model_input["image"] = torch.as_tensor(np.ascontiguousarray(pixels))
        model_input["sem_seg"] = torch.as_tensor(np.ascontiguousarray(augmentation_input.sem_seg))
        return model_input
