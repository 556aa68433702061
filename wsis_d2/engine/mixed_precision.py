"""Mixed precision in training: Detectron2's float16 on a GPU, bfloat16 on a CPU that has it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer

logger = logging.getLogger(__name__)


def build_train_loop(
    model: torch.nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: str,
    mixed_precision: bool,
) -> SimpleTrainer:
    """Detectron2's loop over iterations, in the precision that is asked for.

    Args:
        model: On ``device``; weights, gradients and the optimizer's state stay in float32.
        data_loader: See :class:`SimpleTrainer`.
        optimizer: See :class:`SimpleTrainer`.
        device: "cuda", "cpu" or another name that ``torch.device`` takes.
        mixed_precision: Whether forward passes are in half precision. On a GPU that is
            :class:`AMPTrainer`; on a CPU bfloat16, whose range is float32's, so that no gradient
            needs scaling. Other devices, and CPUs without AVX-512 (where it is emulated and slower
            than float32), train in full precision, with a warning.
    """
    kind = torch.device(device).type
    if not mixed_precision:
        return SimpleTrainer(model, data_loader, optimizer)
    if kind == "cuda":
        return AMPTrainer(model, data_loader, optimizer)
    if kind == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        train_in_bfloat16(model)
    else:
        logger.warning(
            "SOLVER.AMP.ENABLED (train.amp.enabled) needs a GPU or a CPU with AVX-512: training in "
            "full precision"
        )
    return SimpleTrainer(model, data_loader, optimizer)


def train_in_bfloat16(model: torch.nn.Module) -> None:
    """Let a model's forward passes on the CPU run under autocast while it trains, in place.

    Evaluation stays in float32, and so do the weights.
    """
    forward = model.forward

    @functools.wraps(forward)
    def autocast_forward(*args, **kwargs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.training):
            return forward(*args, **kwargs)

    model.forward = autocast_forward
