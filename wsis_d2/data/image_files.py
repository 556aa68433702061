"""Image files of a dataset: which are there, how large they are, and their pixels."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..images import read_image, unreadable_image

__all__ = ["IMAGE_EXTENSIONS", "check_images_exist", "read_dataset_image", "read_image_sizes"]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")

_EXIF_ORIENTATION = 274
_EXIF_TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height


def check_images_exist(paths: Iterable[str], source: str) -> None:
    """Check that every image is there, with one look into each folder.

    Args:
        paths: image files.
        source: the file or folder that lists them, for the message.

    Raises:
        UserError: names the first image that is absent and counts the others.
    """
    listings: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            absent.append(path)
    if absent:
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(
            f"image '{absent[0]}'{others}, listed in '{source}', is absent: add the image or "
            "remove it from the list"
        )


def read_dataset_image(dataset_dict: dict, image_format: str) -> np.ndarray:
    """The image of a dataset dict, which must have the size that the dataset says.

    Args:
        dataset_dict: with ``file_name``; ``height`` and ``width`` are filled in where they are
            missing.
        image_format: channel order, as in :func:`wsis_d2.images.read_image`.

    Returns:
        (H, W, C).

    Raises:
        UserError: the image is absent, unreadable or of another size.
    """
    file_name = dataset_dict["file_name"]
    image = read_image(file_name, image_format)
    try:
        utils.check_image_size(dataset_dict, image)
    except utils.SizeMismatchError as error:
        expected = (dataset_dict.get("height"), dataset_dict.get("width"))
        raise UserError(
            f"image '{file_name}' has the size {image.shape[:2]} (height, width), but its dataset "
            f"says {expected}: correct the annotation or the file"
        ) from error
    return image


def read_image_sizes(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Height and width of images, from their headers, in parallel threads.

    Sizes are those of the upright image: Detectron2 turns photos as their EXIF orientation says.

    Args:
        paths: image files.

    Returns:
        ``(height, width)`` in pixels of each.

    Raises:
        UserError: says of a file why it cannot be read, and names the others that cannot be.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(_size_or_error, paths)
        sizes = list(tqdm(found, "image sizes", len(paths), leave=False, delay=3))
    errors = {path: size for path, size in zip(paths, sizes) if isinstance(size, UserError)}
    if len(errors) > 1:
        first, *others = errors
        names = ", ".join(f"'{path}'" for path in others[:9]) + (", ..." if others[9:] else "")
        raise UserError(f"{errors[first]}; so it is with {len(others)} more: {names}")
    for error in errors.values():
        raise error
    return sizes


def _size_or_error(path: str) -> tuple[int, int] | UserError:
    try:
        return _read_image_size(path)
    except UserError as error:
        return error


def _read_image_size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception as error:  # as in read_image
        raise unreadable_image(path, error) from error
    return (width, height) if orientation in _EXIF_TRANSPOSED else (height, width)
