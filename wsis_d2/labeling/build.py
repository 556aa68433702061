"""Label generators by name, and from a config."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ..errors import UserError, look_up
from .ignore_region import AddIgnoreRegions

LABEL_GENERATOR_REGISTRY = Registry("LABEL_GENERATOR")
LABEL_GENERATOR_REGISTRY.__doc__ = """
Detectron2 inference models that know the image labels: each takes the standard list of input dicts
with ``image_labels`` and returns ``[{"instances": Instances}]`` at the original image size.

A generator has two attributes: ``network``, the trained network whose checkpoint ``MODEL.WEIGHTS``
names, and ``gives_label_maps``: whether its output also has ``sem_seg_labels``, (H, W) uint8 with 0
for the background and c + 1 for class c.
"""

LOCALIZER_REGISTRY = Registry("LOCALIZER")
LOCALIZER_REGISTRY.__doc__ = """
Localisers by their name in ``PSEUDO_LABELS.LOCALIZER``: classes that are built from a config, see
:class:`wsis_d2.labeling.locations.Localizer`.
"""

SELECTOR_REGISTRY = Registry("SELECTOR")
SELECTOR_REGISTRY.__doc__ = """
Selectors by their name in ``PSEUDO_LABELS.SELECTOR``: classes that are built from a config and
choose a mask proposal for each located object.
"""


def label_dataset_name(cfg: CfgNode) -> str:
    """The dataset to label: ``PSEUDO_LABELS.DATASET`` or the only one in ``DATASETS.TRAIN``.

    Raises:
        UserError: several are named.
    """
    if cfg.PSEUDO_LABELS.DATASET:
        return cfg.PSEUDO_LABELS.DATASET
    if len(cfg.DATASETS.TRAIN) != 1:
        raise UserError(
            f"DATASETS.TRAIN names {len(cfg.DATASETS.TRAIN)} datasets: say which one to label in "
            "PSEUDO_LABELS.DATASET"
        )
    return cfg.DATASETS.TRAIN[0]


def build_label_generator(cfg: CfgNode) -> torch.nn.Module:
    """The generator ``cfg.PSEUDO_LABELS.GENERATOR``, on ``cfg.MODEL.DEVICE``, without weights.

    Raises:
        UserError: no generator of that name.
    """
    name = cfg.PSEUDO_LABELS.GENERATOR
    generator = look_up(LABEL_GENERATOR_REGISTRY, name, "PSEUDO_LABELS.GENERATOR")(cfg)
    if cfg.PSEUDO_LABELS.IGNORE_THRESHOLD > 0:
        generator.register_forward_hook(AddIgnoreRegions(cfg.PSEUDO_LABELS.IGNORE_THRESHOLD))
    return generator.to(torch.device(cfg.MODEL.DEVICE)).eval()


def build_localizer(cfg: CfgNode) -> torch.nn.Module:
    """The localiser ``cfg.PSEUDO_LABELS.LOCALIZER``, without weights.

    Raises:
        UserError: no localiser of that name.
    """
    name = cfg.PSEUDO_LABELS.LOCALIZER
    return look_up(LOCALIZER_REGISTRY, name, "PSEUDO_LABELS.LOCALIZER")(cfg)


def build_selector(cfg: CfgNode):
    """The selector ``cfg.PSEUDO_LABELS.SELECTOR``; see :mod:`wsis_d2.labeling.selectors`.

    Raises:
        UserError: no selector of that name.
    """
    name = cfg.PSEUDO_LABELS.SELECTOR
    return look_up(SELECTOR_REGISTRY, name, "PSEUDO_LABELS.SELECTOR")(cfg)
