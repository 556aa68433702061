"""Class activation maps on disk: one small compressed file per image."""

from __future__ import annotations

import io
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..files import write_bytes

# A class without any evidence has a maximum of 0 (as published).
_EPSILON = 1e-5

# Compressed, a file of zeros may have a thousandth of it. 20 classes on 24 megapixels have 60 MB.
_MAX_BYTES = 2**28


def write_cam(path: str | os.PathLike, cam: Tensor | np.ndarray, class_ids: Tensor) -> None:
    """Write the CAMs of one image, atomically, as a compressed ``.npz`` of half precision.

    The same maps give the same bytes.

    Args:
        path: the file; its folder is made.
        cam: (C, h, w) in [0, 1], on any device.
        class_ids: (C,) int64, the maps' classes.

    Raises:
        ValueError: wrong shapes.
        UserError: the file cannot be written.
    """
    cam, class_ids = torch.as_tensor(cam), torch.as_tensor(class_ids)
    if cam.ndim != 3 or class_ids.shape != cam.shape[:1]:
        raise ValueError(
            f"cam must be (C, h, w) and class_ids (C,), got {tuple(cam.shape)} and "
            f"{tuple(class_ids.shape)}"
        )
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        cam=cam.detach().cpu().numpy().astype(np.float16),
        class_ids=class_ids.cpu().numpy().astype(np.int64),
    )
    write_bytes(path, buffer.getvalue())


def read_cam(path: str | os.PathLike) -> tuple[Tensor, Tensor]:
    """Read what :func:`write_cam` wrote.

    Returns:
        CAMs (C, h, w) float32 in [0, 1], the maximum of each about 1; class ids (C,) int64.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if max(info.file_size for info in file.zip.infolist()) > _MAX_BYTES:
                raise ValueError(f"its maps have more than {_MAX_BYTES >> 20} MiB")
            cam, class_ids = file["cam"], file["class_ids"]
            is_numbers = cam.dtype.kind == "f" and class_ids.dtype.kind in "iu"
            cam, class_ids = cam.astype(np.float32), class_ids.astype(np.int64)
    except FileNotFoundError as error:
        raise UserError(
            f"the CAMs '{path}' are missing: make them with tools/make_cams.py or set CAM.PATH"
        ) from error
    except Exception as error:  # NumPy and zipfile raise nearly anything for damaged files
        raise _damaged(path, error) from error
    if cam.ndim != 3 or class_ids.shape != cam.shape[:1] or not is_numbers:
        raise _damaged(path, "not the maps of some classes")
    if not np.isfinite(cam).all():
        raise _damaged(path, "its maps are not finite")
    return torch.from_numpy(cam), torch.from_numpy(class_ids)


def full_size_cam(cam: Tensor, image_size: tuple[int, int], stride: int = 4) -> Tensor:
    """Bring CAMs to the size of their image and normalise each by its maximum again.

    Args:
        cam: (C, h, w), at least 0, of a grid of cells of ``stride`` x ``stride`` pixels.
        image_size: (H, W) of the image.
        stride: side of a cell in pixels.

    Returns:
        (C, H, W) in [0, 1], bilinearly interpolated.

    Raises:
        ValueError: the grid is not that of such an image, h = (H - 1) // stride + 1 and w likewise.
    """
    height, width = image_size
    _check_grid(cam, image_size, stride)
    full = F.interpolate(cam[None], scale_factor=stride, mode="bilinear", align_corners=False)[
        0, :, :height, :width
    ]
    return full / (full.amax((1, 2), keepdim=True) + _EPSILON)


def reduced_cam(
    cam: Tensor, image_size: tuple[int, int], reduced_size: tuple[int, int], stride: int = 4
) -> Tensor:
    """CAMs on the grid that they would have, had their image been reduced.

    Args:
        cam: (C, h, w), of a grid of cells of ``stride`` x ``stride`` pixels.
        image_size: (H, W) of the image.
        reduced_size: (H', W').
        stride: side of a cell in pixels.

    Returns:
        (C, h', w'), bilinearly interpolated; ``cam`` where the sizes are the same.

    Raises:
        ValueError: see :func:`full_size_cam`.
    """
    _check_grid(cam, image_size, stride)
    if reduced_size == image_size:
        return cam
    grid = _grid(reduced_size, stride)
    return F.interpolate(cam[None], grid, mode="bilinear", align_corners=False)[0]


def _grid(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = image_size
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _check_grid(cam: Tensor, image_size: tuple[int, int], stride: int) -> None:
    if cam.shape[1:] != _grid(image_size, stride):
        raise ValueError(
            f"maps of size {tuple(cam.shape[1:])} and stride {stride} are not those of an image of "
            f"{image_size[0]} x {image_size[1]} pixels"
        )


def _damaged(path: str | os.PathLike, why: object) -> UserError:
    return UserError(
        f"the CAMs '{path}' cannot be read ({why}): delete the file and run tools/make_cams.py "
        "again"
    )
