"""Trained weights: where they come from, what they are read as, and our own checkpoints.

Importing this package registers the addresses ``wsis_d2://``, ``timm://`` and ``torchvision://``.
"""

from .checkpoint import WSISCheckpointer, load_trained
from .pretrained import PixelStatistics, check_pixel_statistics, pretrained_pixel_stats
from .published import convert_checkpoint

__all__ = [
    "PixelStatistics",
    "WSISCheckpointer",
    "check_pixel_statistics",
    "convert_checkpoint",
    "load_trained",
    "pretrained_pixel_stats",
]
