"""Optimizers and schedules that the papers need beside Detectron2's own."""

from __future__ import annotations

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

#: The one-cycle policy starts at this fraction of the base learning rate (Smith, 2018).
ONE_CYCLE_START = 1 / 25


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Detectron2's parameter groups with ``SOLVER.OPTIMIZER`` and the learning rate multipliers.

    Parameters of ``model.backbone`` get ``SOLVER.BACKBONE_MULTIPLIER``, all others
    ``SOLVER.HEAD_MULTIPLIER``, and those of ``model.displacement_head`` also
    ``SOLVER.DISPLACEMENT_MULTIPLIER``. Frozen parameters are left out.
    """
    solver = cfg.SOLVER
    multipliers = {
        "backbone": solver.BACKBONE_MULTIPLIER,
        "displacement_head": solver.HEAD_MULTIPLIER * solver.DISPLACEMENT_MULTIPLIER,
    }
    groups = []
    for name, child in model.named_children():
        multiplier = multipliers.get(name, solver.HEAD_MULTIPLIER)
        groups += get_default_optimizer_params(
            child,
            base_lr=solver.BASE_LR * multiplier,
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
    if solver.OPTIMIZER == "SGD":
        optimizer_type = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return optimizer_type(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "AdamW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR)
    raise UserError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: choose 'SGD' or 'AdamW'")


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
        warmup = solver.ONE_CYCLE_WARMUP
        multiplier = CompositeParamScheduler(
            [LinearParamScheduler(ONE_CYCLE_START, 1.0), CosineParamScheduler(1.0, 0.0)],
            lengths=[warmup, 1 - warmup],
            interval_scaling=["rescaled", "rescaled"],
        )
    else:
        try:
            return build_stock_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(
                f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}: choose 'WarmupPolyLR', "
                "'OneCycleLR' or one of Detectron2's"
            ) from error
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=solver.MAX_ITER)
