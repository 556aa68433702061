"""From cues to masks: label generators, one module per method, and the parts of WISE."""

from .affinitynet import AffinityNetCues, AffinityNetLabels
from .agreement import Candidates, CombinedMask, MaskCombiner, class_overlap, relative_ranks
from .box_labels import BoxLabels
from .cam_files import full_size_cam, read_cam, reduced_cam, write_cam
from .cam_folder import CAMFolder
from .cams import MultiScaleCAM, multi_scale_cams
from .contours import ContourNetwork, either_contour, outlines
from .detect import detect_instances
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator, build_label_generator
from .ignore_region import ignore_regions
from .image_size import reduce_image, reduce_input, reduced_size
from .irnet import IRNetLabels, instances_from_relations
from .irnet_walk import InstanceWalk, IRNetCues
from .localizers import (
    LOCALIZER_REGISTRY,
    CAMMaxima,
    DensityPeaks,
    IRNetCentroids,
    Localizer,
    LocationCues,
    PRMPeaks,
    TextBoxes,
    build_localizer,
)
from .optimize import optimize_for_inference
from .prompts import Prompter, build_prompter
from .refine import LabelRefinement, ProposalRefinement, refine_instances
from .score_calibration import (
    ScoreCalibration,
    are_right,
    fit_calibration,
    read_calibration,
)
from .seeds import alpha_seeds, build_seed_function, confident_seeds, crf_settings
from .selectors import (
    SELECTOR_REGISTRY,
    BestObjectness,
    BoxOverlap,
    DensityObjectness,
    DensityScore,
    DiceWithResponse,
    PRMScore,
    SampledObjectness,
    Selector,
    build_selector,
)
from .self_training import SelfTraining
from .stronger_labels import GivenMask, apply_stronger_labels, with_stronger_labels
from .text_detector import TEXT_DETECTOR_REGISTRY, TextDetector
from .transformers_detector import TransformersDetector
from .wise import PRM, WISE

__all__ = [
    "LABEL_GENERATOR_REGISTRY",
    "LOCALIZER_REGISTRY",
    "SELECTOR_REGISTRY",
    "TEXT_DETECTOR_REGISTRY",
    "AffinityNetCues",
    "AffinityNetLabels",
    "BestObjectness",
    "BoxLabels",
    "BoxOverlap",
    "CAMFolder",
    "CAMMaxima",
    "Candidates",
    "CombinedMask",
    "ContourNetwork",
    "DensityObjectness",
    "DensityPeaks",
    "DensityScore",
    "DiceWithResponse",
    "GivenMask",
    "IRNetCentroids",
    "InstanceWalk",
    "LabelGenerator",
    "LabelRefinement",
    "IRNetCues",
    "IRNetLabels",
    "Localizer",
    "LocationCues",
    "MaskCombiner",
    "MultiScaleCAM",
    "PRM",
    "PRMPeaks",
    "PRMScore",
    "Prompter",
    "ProposalRefinement",
    "SampledObjectness",
    "ScoreCalibration",
    "Selector",
    "SelfTraining",
    "TextBoxes",
    "TextDetector",
    "TransformersDetector",
    "WISE",
    "alpha_seeds",
    "apply_stronger_labels",
    "are_right",
    "build_label_generator",
    "build_localizer",
    "build_prompter",
    "build_seed_function",
    "build_selector",
    "class_overlap",
    "confident_seeds",
    "crf_settings",
    "detect_instances",
    "either_contour",
    "fit_calibration",
    "full_size_cam",
    "ignore_regions",
    "instances_from_relations",
    "multi_scale_cams",
    "optimize_for_inference",
    "outlines",
    "read_calibration",
    "read_cam",
    "reduce_image",
    "reduce_input",
    "reduced_cam",
    "reduced_size",
    "refine_instances",
    "relative_ranks",
    "with_stronger_labels",
    "write_cam",
]
