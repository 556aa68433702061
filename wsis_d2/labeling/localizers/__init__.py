"""Where are the objects? One file per kind of localiser."""

from .base import LOCALIZER_REGISTRY, Localizer, LocationCues, build_localizer, located_boxes
from .cam_maxima import CAMMaxima
from .density import DensityPeaks
from .irnet import IRNetCentroids
from .peaks import PRMPeaks
from .text_boxes import TextBoxes

__all__ = [
    "LOCALIZER_REGISTRY",
    "CAMMaxima",
    "DensityPeaks",
    "IRNetCentroids",
    "Localizer",
    "LocationCues",
    "PRMPeaks",
    "TextBoxes",
    "build_localizer",
    "located_boxes",
]
