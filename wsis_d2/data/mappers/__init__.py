"""From dataset dicts to model inputs: one file per kind of supervision."""

from .image_labels import ImageLabelMapper
from .instances import InstanceMapper
from .pseudo_labels import ImageRegion, PseudoLabelMapper, add_loss_weights
from .seeds import SeedMapper
from .sem_seg import SemSegMapper

__all__ = [
    "ImageLabelMapper",
    "ImageRegion",
    "InstanceMapper",
    "PseudoLabelMapper",
    "SeedMapper",
    "SemSegMapper",
    "add_loss_weights",
]
