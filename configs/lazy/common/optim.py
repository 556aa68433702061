"""Optimizers and learning rates."""

import torch
from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import ConstantParamScheduler, PolynomialDecayParamScheduler

from wsis_d2.engine import get_optimizer_params
from wsis_d2.engine.solver import one_cycle as one_cycle_scheduler

# params.model is set before the optimizer is instantiated.
sgd = L(torch.optim.SGD)(
    params=L(get_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

adamw = L(torch.optim.AdamW)(
    params=L(get_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=0.002,
    weight_decay=0.01,
)

constant = L(ConstantParamScheduler)(value=1.0)
polynomial = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
one_cycle = L(one_cycle_scheduler)(warmup=0.3)
