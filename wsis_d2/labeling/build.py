"""Label generators by name, and from a config."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ..errors import look_up

LABEL_GENERATOR_REGISTRY = Registry("LABEL_GENERATOR")
LABEL_GENERATOR_REGISTRY.__doc__ = """
Detectron2 inference models that know the image labels: each takes the standard list of input dicts
with ``image_labels`` and returns ``[{"instances": Instances}]`` at the original image size.

A generator has an attribute ``classifier``, the trained network whose checkpoint
``MODEL.WEIGHTS`` names.
"""


def build_label_generator(cfg: CfgNode) -> torch.nn.Module:
    """The generator ``cfg.PSEUDO_LABELS.GENERATOR``, on ``cfg.MODEL.DEVICE``, without weights.

    Raises:
        UserError: no generator of that name.
    """
    name = cfg.PSEUDO_LABELS.GENERATOR
    generator = look_up(LABEL_GENERATOR_REGISTRY, name, "PSEUDO_LABELS.GENERATOR")(cfg)
    return generator.to(torch.device(cfg.MODEL.DEVICE)).eval()
