"""From cues to masks: one module per method."""

from .build import LABEL_GENERATOR_REGISTRY, build_label_generator, label_dataset_name
from .cam_files import full_size_cam, read_cam, write_cam
from .cams import MultiScaleCAM, multi_scale_cams
from .peak_labels import PRM, WISE, PeakLabelGenerator
from .peak_localizer import PeakCues, PeakLocalizer
from .seeds import alpha_seeds, build_seed_function, confident_seeds, crf_settings

__all__ = [
    "LABEL_GENERATOR_REGISTRY",
    "PRM",
    "WISE",
    "MultiScaleCAM",
    "PeakCues",
    "PeakLabelGenerator",
    "PeakLocalizer",
    "alpha_seeds",
    "build_label_generator",
    "build_seed_function",
    "confident_seeds",
    "crf_settings",
    "full_size_cam",
    "label_dataset_name",
    "multi_scale_cams",
    "read_cam",
    "write_cam",
]
