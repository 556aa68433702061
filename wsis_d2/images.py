"""Image files as 8-bit arrays: the one reader of all stages."""

from __future__ import annotations

import os

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps
from torch import Tensor

from .errors import UserError

_TIFF_BITS_PER_SAMPLE = 258


def read_image(file_name: str | os.PathLike, image_format: str = "RGB") -> np.ndarray:
    """Read an image file, turned as its EXIF orientation says.

    As :func:`detectron2.data.detection_utils.read_image`, which clips what has more than 8 bits:

    - of 16-bit gray images (PNG, TIFF, PGM) the high byte is taken (``>> 8``), as Pillow itself
      does with those in colour; a TIFF of fewer bits, 12 say, is scaled by as many;
    - a float image is taken as 0..1 where no value is above 1, else as 0..255.

    Args:
        file_name: the image.
        image_format: one of Pillow's modes, "BGR" or "YUV-BT.601".

    Returns:
        (H, W, C) uint8; float32 for "YUV-BT.601".

    Raises:
        UserError: the file is absent or no image, or its values have another range: float below 0
            or above 255 or not finite, 32-bit integers.
    """
    try:
        with PathManager.open(os.fspath(file_name), "rb") as file, Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            return convert_PIL_to_numpy(_to_eight_bit(upright, image, file_name), image_format)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        raise unreadable_image(file_name, error) from error


def _to_eight_bit(upright: Image.Image, image: Image.Image, file_name) -> Image.Image:
    """Gray where Pillow's mode is one of more than 8 bits; other images as they are.

    Args:
        upright: the pixels.
        image: the same image as it was opened, which knows its file's format.
        file_name: for messages.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = 16
        if image.format == "TIFF":
            bits = max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (bits,)))
        return Image.fromarray((np.asarray(upright) >> (bits - 8)).astype(np.uint8))
    if image.mode == "I":
        raise UserError(
            f"image '{file_name}' has integers of 32 bits, whose range nobody knows: save it with "
            "8 or 16 bits"
        )
    if image.mode == "F":
        pixels = np.asarray(upright)
        if not (pixels.min() >= 0 and pixels.max() <= 255):  # so that NaN is refused too
            raise UserError(
                f"image '{file_name}' has floats from {pixels.min():g} to {pixels.max():g}, but "
                "only 0..1 and 0..255 are known ranges: save it with 8 or 16 bits"
            )
        scale = 255 if pixels.max() <= 1 else 1
        return Image.fromarray(np.rint(pixels * scale).astype(np.uint8))
    return upright


def require_rgb_format(image_format: str, needed_by: str) -> None:
    """Make sure that :func:`to_rgb` knows a format.

    Args:
        image_format: ``INPUT.FORMAT``.
        needed_by: what wants RGB, for the message.

    Raises:
        UserError: it does not.
    """
    if image_format not in ("BGR", "RGB", "L"):
        raise UserError(
            f"INPUT.FORMAT is {image_format!r}, which {needed_by} cannot bring to RGB: choose "
            "'BGR', 'RGB' or 'L', or do without it"
        )


def to_rgb(image: Tensor, image_format: str) -> Tensor:
    """An image (C, H, W) of a format that :func:`require_rgb_format` takes, as RGB (3, H, W)."""
    return image.flip(0) if image_format == "BGR" else image.expand(3, -1, -1)


def unreadable_image(path: str | os.PathLike, error: Exception) -> UserError:
    """The error for an image that is absent or broken; ``error`` is what the reader said."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"image '{path}' is absent: add the image or remove it from the dataset's list"
        )
    return UserError(
        f"image '{path}' cannot be read ({error}): replace the file or remove it from the "
        "dataset's list"
    )
