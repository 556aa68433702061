"""From a dataset dict to the input of a model that is trained on an image's seeds."""

import os
from collections.abc import Iterable

import numpy as np
import torch
from detectron2.data import transforms as T

from wsis_d2.errors import UserError
from wsis_d2.files import label_file

from .dataset_mapper import ImageLabelMapper
from .label_maps import read_label_map

__all__ = ["SeedMapper", "add_seed_files"]


def add_seed_files(dataset_dicts: Iterable[dict], folder: str, image_root: str) -> list[dict]:
    """Reduce dataset dicts to images and their seeds.

    Args:
        dataset_dicts: any of Detectron2's.
        folder: of the seeds, one PNG per image; see :func:`wsis_d2.files.label_file`.
        image_root: folder of the dataset's images.

    Returns:
        Dicts with ``file_name``, ``image_id``, ``height``, ``width`` (where known) and
        ``sem_seg_file_name``.

    Raises:
        UserError: an image has no seeds.
    """
    with_seeds, missing = [], []
    for dataset_dict in dataset_dicts:
        kept = _image_keys(dataset_dict)
        kept["sem_seg_file_name"] = label_file(folder, kept["file_name"], image_root, ".png")
        if not os.path.isfile(kept["sem_seg_file_name"]):
            missing.append(kept["sem_seg_file_name"])
        with_seeds.append(kept)
    if missing:
        raise UserError(
            f"the seeds '{missing[0]}' are missing ({len(missing)} of {len(with_seeds)} images "
            "have none): make them with tools/make_seeds.py, or correct SEEDS.PATH"
        )
    return with_seeds


def _image_keys(dataset_dict: dict) -> dict:
    keys = ("file_name", "image_id", "height", "width")
    return {key: dataset_dict[key] for key in keys if key in dataset_dict}


class SeedMapper(ImageLabelMapper):
    """Reads an image and its seeds and augments both alike; nothing else passes."""

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image of :func:`add_seed_files`; it is not changed.

        Returns:
            A dict with ``image`` ((C, H, W) tensor, uint8 for color formats), ``sem_seg`` ((H, W)
            uint8 tensor: 0 background, c + 1 class c, 255 unknown), ``height`` and ``width`` (of
            the image as it is on disk, upright), ``file_name`` and ``image_id``.

        Raises:
            UserError: the image or its seeds are absent, unreadable or of different sizes.
        """
        model_input = _image_keys(dataset_dict)
        image = self._read_image(model_input)
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
