"""Backbones and meta-architectures; importing this registers them with Detectron2."""

from .affinitynet import AffinityNet
from .backbone import build_wsis_resnet_backbone
from .classifier import CAMClassifier, PRMClassifier
from .irnet import IRNet
from .relation_heads import RELATION_HEAD_REGISTRY, BoundaryHead, DisplacementHead

__all__ = [
    "RELATION_HEAD_REGISTRY",
    "AffinityNet",
    "BoundaryHead",
    "CAMClassifier",
    "DisplacementHead",
    "IRNet",
    "PRMClassifier",
    "build_wsis_resnet_backbone",
]
