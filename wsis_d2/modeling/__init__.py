"""Backbones and meta-architectures; importing this registers them with Detectron2."""

from .backbone import build_wsis_resnet_backbone
from .classifier import CAMClassifier, PRMClassifier

__all__ = ["CAMClassifier", "PRMClassifier", "build_wsis_resnet_backbone"]
