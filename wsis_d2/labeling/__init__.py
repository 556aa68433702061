"""From cues to masks: one module per method."""

from .build import LABEL_GENERATOR_REGISTRY, build_label_generator, label_dataset_name
from .cam_files import full_size_cam, read_cam, write_cam
from .peak_labels import PRM, WISE, PeakLabelGenerator
from .peak_localizer import PeakCues, PeakLocalizer

__all__ = [
    "LABEL_GENERATOR_REGISTRY",
    "PRM",
    "WISE",
    "PeakCues",
    "PeakLabelGenerator",
    "PeakLocalizer",
    "build_label_generator",
    "label_dataset_name",
    "full_size_cam",
    "read_cam",
    "write_cam",
]
