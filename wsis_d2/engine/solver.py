"""Optimizers and schedules that the papers need beside Detectron2's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_stock_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    PolynomialDecayParamScheduler,
)

from ..errors import UserError

logger = logging.getLogger(__name__)

#: The one-cycle policy starts at this fraction of the base learning rate (Smith, 2018).
ONE_CYCLE_START = 1 / 25
# What Detectron2's feature pyramids, FPN and SimpleFeaturePyramid, call the network they stand on.
_UNDER_PYRAMID = ("bottom_up", "net")


def limit_epochs(cfg: CfgNode, num_images: int | None) -> CfgNode:
    """Fewer iterations, where otherwise few images would be seen often (``SOLVER.MAX_EPOCHS``).

    As :meth:`detectron2.engine.DefaultTrainer.auto_scale_workers` does for other batch sizes, all
    that counts iterations is scaled alike.

    Args:
        cfg: of the training.
        num_images: how many there are to train on; None: nobody knows.

    Returns:
        The same config, or a new one with a smaller ``SOLVER.MAX_ITER``.
    """
    solver = cfg.SOLVER
    if not solver.MAX_EPOCHS or num_images is None:
        return cfg
    max_iter = math.ceil(solver.MAX_EPOCHS * num_images / solver.IMS_PER_BATCH)
    if max_iter >= solver.MAX_ITER:
        return cfg
    logger.info(
        f"Training for {max_iter} iterations instead of {solver.MAX_ITER}: {num_images} images are "
        f"seen no more than SOLVER.MAX_EPOCHS = {solver.MAX_EPOCHS} times"
    )
    scale = max_iter / solver.MAX_ITER
    scaled = cfg.clone()
    scaled.defrost()
    scaled.SOLVER.MAX_ITER = max_iter
    scaled.SOLVER.STEPS = tuple(round(step * scale) for step in solver.STEPS)
    scaled.SOLVER.WARMUP_ITERS = round(solver.WARMUP_ITERS * scale)
    scaled.SOLVER.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD * scale))
    if cfg.TEST.EVAL_PERIOD:
        scaled.TEST.EVAL_PERIOD = max(1, round(cfg.TEST.EVAL_PERIOD * scale))
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def get_optimizer_params(
    model: torch.nn.Module,
    base_lr: float,
    *,
    backbone_multiplier: float = 1.0,
    head_multiplier: float = 1.0,
    displacement_multiplier: float = 1.0,
    weight_decay_embed: float | None = None,
    **options,
) -> list[dict]:
    """Detectron2's parameter groups, with a learning rate for each part of the model.

    Args:
        model: frozen parameters are left out.
        base_lr: learning rate that the factors are on.
        backbone_multiplier: factor for ``model.backbone``; of a feature pyramid, whose own layers
            are new to the task, for the network under it.
        head_multiplier: factor for everything else.
        displacement_multiplier: another one, for ``model.displacement_head``.
        weight_decay_embed: of embeddings (``nn.Embedding``); None: that of other weights.
        options: see :func:`detectron2.solver.build.get_default_optimizer_params`.
    """
    multipliers = {
        "backbone": backbone_multiplier,
        "displacement_head": head_multiplier * displacement_multiplier,
    }
    parts = dict(model.named_children())
    backbone = parts.get("backbone")
    if any(name in _UNDER_PYRAMID for name, _ in getattr(backbone, "named_children", tuple)()):
        del parts["backbone"]
        for name, child in backbone.named_children():
            parts["backbone" if name in _UNDER_PYRAMID else f"backbone.{name}"] = child
    groups = [
        group
        for name, child in parts.items()
        for group in get_default_optimizer_params(
            child, base_lr=base_lr * multipliers.get(name, head_multiplier), **options
        )
    ]
    if weight_decay_embed is None:
        return groups
    embeddings = {
        parameter
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters()
    }
    return _with_decay(groups, embeddings, weight_decay_embed)


def _with_decay(
    groups: list[dict], chosen: Collection[torch.nn.Parameter], weight_decay: float
) -> list[dict]:
    """Parameter groups in which the chosen parameters have another weight decay."""
    split = []
    for group in groups:
        parts = {True: [], False: []}
        for parameter in group["params"]:
            parts[parameter in chosen].append(parameter)
        if parts[False]:
            split.append({**group, "params": parts[False]})
        if parts[True]:
            split.append({**group, "params": parts[True], "weight_decay": weight_decay})
    return split


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER`` with the parameter groups of :func:`get_optimizer_params`."""
    solver = cfg.SOLVER
    groups = get_optimizer_params(
        model,
        solver.BASE_LR,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        head_multiplier=solver.HEAD_MULTIPLIER,
        displacement_multiplier=solver.DISPLACEMENT_MULTIPLIER,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.OPTIMIZER == "SGD":
        optimizer_type = _add_gradient_clipping(cfg, torch.optim.SGD)
        return optimizer_type(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "AdamW":
        return _add_gradient_clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR)
    raise UserError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: choose 'SGD' or 'AdamW'")


def _add_gradient_clipping(
    cfg: CfgNode, optimizer_type: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    """``SOLVER.CLIP_GRADIENTS``: Detectron2's kinds, and "full_model"."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not (clip.ENABLED and clip.CLIP_TYPE == "full_model"):
        return maybe_add_gradient_clipping(cfg, optimizer_type)

    class OptimizerWithFullModelClip(optimizer_type):
        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)
            return super().step(closure)

    return OptimizerWithFullModelClip


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Detectron2's schedules, and "WarmupPolyLR" and "OneCycleLR"."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        decay = PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER)
        warmup_length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
        multiplier = WarmupParamScheduler(
            decay, solver.WARMUP_FACTOR, warmup_length, solver.WARMUP_METHOD
        )
    elif solver.LR_SCHEDULER_NAME == "OneCycleLR":
        multiplier = one_cycle(solver.ONE_CYCLE_WARMUP)
    else:
        try:
            return build_stock_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(
                f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}: choose 'WarmupPolyLR', "
                "'OneCycleLR' or one of Detectron2's"
            ) from error
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=solver.MAX_ITER)


def one_cycle(warmup: float = 0.3) -> CompositeParamScheduler:
    """Linear up to the base learning rate over this part of the run, then cosine to 0."""
    return CompositeParamScheduler(
        [LinearParamScheduler(ONE_CYCLE_START, 1.0), CosineParamScheduler(1.0, 0.0)],
        lengths=[warmup, 1 - warmup],
        interval_scaling=["rescaled", "rescaled"],
    )
