"""From cues to masks: one module per method."""

from .affinitynet_labels import AffinityNetCues, AffinityNetLabels
from .build import (
    LABEL_GENERATOR_REGISTRY,
    LOCALIZER_REGISTRY,
    SELECTOR_REGISTRY,
    build_label_generator,
    build_localizer,
    build_selector,
    label_dataset_name,
)
from .cam_files import full_size_cam, read_cam, write_cam
from .cam_folder import CAMFolder
from .cam_localizer import CAMMaxima
from .cams import MultiScaleCAM, multi_scale_cams
from .density_localizer import DensityPeaks
from .density_selector import DensityObjectness, DensityScore
from .detect import detect_instances
from .ignore_region import AddIgnoreRegions, ignore_regions
from .irnet_labels import IRNetCues, IRNetLabels, instances_from_relations
from .irnet_localizer import IRNetCentroids
from .locations import Localizer, LocationCues
from .peak_localizer import PRMPeaks
from .proposal_labels import PRM, WISE
from .refine import ProposalRefinement, refine_instances
from .seeds import alpha_seeds, build_seed_function, confident_seeds, crf_settings
from .selectors import BestObjectness, DiceWithResponse, PRMScore, SampledObjectness, Selector
from .self_training import SelfTraining

__all__ = [
    "LABEL_GENERATOR_REGISTRY",
    "LOCALIZER_REGISTRY",
    "SELECTOR_REGISTRY",
    "AddIgnoreRegions",
    "AffinityNetCues",
    "AffinityNetLabels",
    "BestObjectness",
    "CAMFolder",
    "CAMMaxima",
    "DensityObjectness",
    "DensityPeaks",
    "DensityScore",
    "DiceWithResponse",
    "IRNetCentroids",
    "IRNetCues",
    "IRNetLabels",
    "Localizer",
    "LocationCues",
    "MultiScaleCAM",
    "PRM",
    "PRMPeaks",
    "PRMScore",
    "ProposalRefinement",
    "SampledObjectness",
    "Selector",
    "SelfTraining",
    "WISE",
    "alpha_seeds",
    "build_label_generator",
    "build_localizer",
    "build_seed_function",
    "build_selector",
    "confident_seeds",
    "crf_settings",
    "detect_instances",
    "full_size_cam",
    "ignore_regions",
    "instances_from_relations",
    "label_dataset_name",
    "multi_scale_cams",
    "read_cam",
    "refine_instances",
    "write_cam",
]
