"""Images of more pixels than memory has room for are reduced before the networks see them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from torch import Tensor


def reduced_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The (height, width) of at most ``max_pixels`` pixels, or as it is where that is 0."""
    height, width = size
    if not max_pixels or height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    return max(1, int(height * scale)), max(1, int(width * scale))


def reduce_image(image: Tensor, max_pixels: int) -> Tensor:
    """An image (C, H, W) in 0 .. 255 of at most ``max_pixels`` pixels, of the same type.

    Larger ones are resized bilinearly with antialiasing, to whole gray values.
    """
    size = tuple(image.shape[1:])
    reduced = reduced_size(size, max_pixels)
    if reduced == size:
        return image
    resized = F.interpolate(
        image[None].float(), reduced, mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0].round().clamp(0, 255).to(image.dtype)


def reduce_input(x: dict, max_pixels: int) -> dict:
    """A model input dict of a large image, as if the image had been reduced on disk.

    Args:
        x: with ``image`` (C, h, w), which may be resized already, and ``height`` and ``width`` of
            the image on disk.
        max_pixels: 0: any number.

    Returns:
        ``x`` itself where ``height`` x ``width`` is not more than that; else a copy with the
        reduced ``image``, ``height`` and ``width``, and with ``full_size``, (H, W) before.
    """
    if not max_pixels:
        return x
    full_size = (x["height"], x["width"])
    height, width = reduced_size(full_size, max_pixels)
    if (height, width) == full_size:
        return x
    image = reduce_image(x["image"], max_pixels)
    return {**x, "image": image, "height": height, "width": width, "full_size": full_size}


def resize_input(x: dict, resize: T.Augmentation) -> dict:
    """A model input dict with its ``image`` (C, H, W) uint8 resized as Detectron2 does in tests.

    ``height`` and ``width`` stay: models give instances of that size.
    """
    image = np.ascontiguousarray(x["image"].permute(1, 2, 0).numpy())
    image = resize.get_transform(image).apply_image(image)
    return {**x, "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}
