"""Backbones and meta-architectures; importing this registers them with Detectron2."""

from .affinitynet import AffinityNet
from .backbone import Stem, build_wsis_resnet_backbone, make_stages
from .classifier import CAMClassifier, PRMClassifier
from .density import DensityPRM
from .features import feature_shapes
from .irnet import IRNet
from .mask2former import HFMask2Former
from .matching import BestMatcher
from .noise_aware import NoiseAwareMaskHead, NoiseAwareROIHeads, NoiseAwareRPN
from .norm import find_norm
from .relation_heads import (
    RELATION_HEAD_REGISTRY,
    BoundaryHead,
    ContextDisplacementHead,
    DisplacementHead,
)
from .retina_mask import RetinaMask
from .timm_backbone import (
    TimmBackbone,
    build_retinanet_timm_fpn_backbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from .transformers_backbone import TransformersBackbone, build_transformers_backbone

__all__ = [
    "RELATION_HEAD_REGISTRY",
    "AffinityNet",
    "BestMatcher",
    "BoundaryHead",
    "CAMClassifier",
    "ContextDisplacementHead",
    "DensityPRM",
    "DisplacementHead",
    "HFMask2Former",
    "IRNet",
    "NoiseAwareMaskHead",
    "NoiseAwareROIHeads",
    "NoiseAwareRPN",
    "PRMClassifier",
    "RetinaMask",
    "Stem",
    "TimmBackbone",
    "TransformersBackbone",
    "build_retinanet_timm_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_transformers_backbone",
    "build_wsis_resnet_backbone",
    "feature_shapes",
    "find_norm",
    "make_stages",
]
