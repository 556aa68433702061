"""From cues to masks: one module per method."""

from .affinitynet_labels import AffinityNetCues, AffinityNetLabels
from .build import LABEL_GENERATOR_REGISTRY, build_label_generator, label_dataset_name
from .cam_files import full_size_cam, read_cam, write_cam
from .cam_folder import CAMFolder
from .cams import MultiScaleCAM, multi_scale_cams
from .detect import detect_instances
from .irnet_labels import IRNetCues, IRNetLabels, instances_from_relations
from .peak_labels import PRM, WISE, PeakLabelGenerator
from .peak_localizer import PeakCues, PeakLocalizer
from .seeds import alpha_seeds, build_seed_function, confident_seeds, crf_settings

__all__ = [
    "LABEL_GENERATOR_REGISTRY",
    "AffinityNetCues",
    "AffinityNetLabels",
    "CAMFolder",
    "IRNetCues",
    "IRNetLabels",
    "detect_instances",
    "instances_from_relations",
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
