"""What training and evaluation share, whether a YAML config or a LazyConfig describes them."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import platform
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import get_event_storage
from torch.utils.data import DataLoader

from ..data.resumed_loader import batches_from
from ..data.seeded_loader import mixed_seed
from ..errors import UserError
from ..files import write_json
from ..weights.checkpoint import WSISCheckpointer
from .hooks import FinishedTraining, MeanDisplacement, SeededIterations, StopOnSigterm
from .pictures import TrainingPictures

logger = logging.getLogger(__name__)


def build_distributed_loop(
    model: torch.nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: str,
    mixed_precision: bool,
    **ddp_options: Any,
) -> SimpleTrainer:
    """Detectron2's loop over iterations, on GPUs or CPU processes.

    Args:
        model: on ``device``; the loop's own ``model`` is wrapped where there are several processes.
        data_loader: this process's share of the batches.
        optimizer: of the model's parameters.
        device: "cuda", "cpu" or another name that ``torch.device`` takes.
        mixed_precision: see :func:`build_train_loop`.
        ddp_options: for ``DistributedDataParallel``.
    """
    if torch.device(device).type != "cuda":
        ddp_options["device_ids"] = None  # Detectron2 would give the GPU of this process
    model = create_ddp_model(model, **ddp_options)
    return build_train_loop(model, data_loader, optimizer, device, mixed_precision)


def build_train_loop(
    model: torch.nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: str,
    mixed_precision: bool,
) -> SimpleTrainer:
    """Detectron2's loop over iterations, in the precision that is asked for.

    Args:
        model: on ``device``; weights, gradients and the optimizer's state stay in float32.
        data_loader: see :class:`SimpleTrainer`.
        optimizer: see :class:`SimpleTrainer`.
        device: "cuda", "cpu" or another name that ``torch.device`` takes.
        mixed_precision: whether forward passes are in half precision. On a GPU that is
            :class:`AMPTrainer`; on a CPU bfloat16, whose range is float32's, so that no gradient
            needs scaling. Other devices, and CPUs without :func:`has_bfloat16`, train in full
            precision, with a warning.
    """
    kind = torch.device(device).type
    if not mixed_precision:
        return SimpleTrainer(model, data_loader, optimizer)
    if kind == "cuda":
        return AMPTrainer(model, data_loader, optimizer)
    if kind == "cpu" and has_bfloat16():
        train_in_bfloat16(model)
    else:
        logger.warning(
            "SOLVER.AMP.ENABLED (train.amp.enabled) needs a GPU or a CPU with instructions for "
            "bfloat16 (AVX512_BF16): training in full precision"
        )
    return SimpleTrainer(model, data_loader, optimizer)


def has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 itself.

    oneDNN also takes it on any AVX-512 CPU, but emulates it there, at half the speed of float32.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


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


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, out of its DDP wrapper if it has one."""
    return getattr(model, "module", model)


def insert_mean_displacement(
    registered: list[HookBase | None],
    model: torch.nn.Module,
    build_loader: Callable[[], DataLoader],
) -> None:
    """Add an IRNet's last step to the hooks of its training; other models have none.

    Args:
        registered: the hooks, changed in place.
        model: the model, wrapped or not.
        build_loader: see :class:`MeanDisplacement`.
    """
    model = unwrapped(model)
    if not hasattr(model, "mean_displacement"):
        return
    # Before the last checkpoint is written; only the main process has a hook that writes it.
    position = _first_of(registered, hooks.PeriodicCheckpointer, hooks.EvalHook)
    registered.insert(position, MeanDisplacement(model, build_loader))


def insert_stops(registered: list[HookBase | None], checkpointer: WSISCheckpointer) -> None:
    """Add :class:`StopOnSigterm` and what a run that is killed in its end needs to the hooks of a
    training, in place."""
    # Not after an evaluation, for which schedulers do not wait.
    position = _first_of(registered, hooks.EvalHook)
    registered[position:position] = [StopOnSigterm(checkpointer), FinishedTraining(checkpointer)]


def insert_training_pictures(
    registered: list[HookBase | None], model: torch.nn.Module, period: int, image_format: str
) -> None:
    """Add :class:`TrainingPictures` to the hooks of a training, in place, where they are asked for.

    Args:
        registered: the hooks.
        model: the model, wrapped or not.
        period: ``VIS_PERIOD``; 0 for no pictures.
        image_format: ``INPUT.FORMAT``.
    """
    if period > 0 and comm.is_main_process():  # which alone has a writer
        position = _first_of(registered, hooks.EvalHook)
        registered.insert(position, TrainingPictures(unwrapped(model), period, image_format))


def insert_seeded_iterations(registered: list[HookBase | None], seed: int) -> None:
    """Add :class:`SeededIterations` to the hooks of a training, in place, where it has a seed."""
    if seed >= 0:
        registered.insert(0, SeededIterations(seed))


def _first_of(registered: list[HookBase | None], *kinds: type[HookBase]) -> int:
    return next(i for i, hook in enumerate(registered) if isinstance(hook, kinds))


def stop_at_divergence(loop: SimpleTrainer, checkpointer: WSISCheckpointer) -> None:
    """Let a training stop, with a sentence, where a loss, or a box on the way to it, is no finite
    number any more.

    Every process looks at its own losses, where Detectron2 does at their mean on the main one.

    Args:
        loop: changed in place.
        checkpointer: that of the training.
    """
    images: list[str] = []
    write_metrics = functools.partial(type(loop)._write_metrics, weakref.proxy(loop))

    def remember_images(_: torch.nn.Module, args: tuple) -> None:
        images[:] = [str(x.get("file_name")) for x in args[0]]

    def write_finite_metrics(loss_dict: Mapping[str, torch.Tensor], *args, **kwargs) -> None:
        losses = {name: loss.item() for name, loss in loss_dict.items()}
        wrong = [f"{name} {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
        if wrong:
            raise diverged(", ".join(wrong))
        write_metrics(loss_dict, *args, **kwargs)

    def diverged(what: str) -> UserError:
        return UserError(
            f"training diverged: {what} in iteration {get_event_storage().iter} on images "
            f"{', '.join(images)}; {checkpointer.last_good()}; look at these images and their "
            "labels, or lower the learning rate"
        )

    def run_finite_step() -> None:
        try:
            run_step()
        except FloatingPointError as error:  # from Detectron2's region proposals
            raise diverged(str(error).partition(". ")[0]) from error

    run_step = functools.partial(type(loop).run_step, weakref.proxy(loop))
    loop.model.register_forward_pre_hook(remember_images)
    loop._write_metrics = write_finite_metrics
    loop.run_step = run_finite_step


def resume_data(trainer: SimpleTrainer, start_iter: int, max_iter: int, seed: int) -> None:
    """Let a trainer go on with the images that an undisturbed run would see from ``start_iter`` on.

    See :func:`wsis_d2.data.resumed_loader.batches_from`. Nothing is done for a run that begins or
    is finished.

    Args:
        trainer: its loader was built after the same seeding as that of the first run.
        start_iter: the first iteration that is to run.
        max_iter: the number of iterations of the whole run.
        seed: of the run; below 0 nothing is seeded (and in Detectron2 0.6 the order of the images
            is another one anyway).
    """
    if not 0 < start_iter < max_iter:
        return
    if seed >= 0:
        # The workers of a loader that does not seed its images must not repeat what they drew.
        seed_all_rng(mixed_seed(seed, comm.get_rank(), start_iter))
    # Detectron2 0.6 makes the iterator with the trainer, its main branch on the first step.
    is_lazy = hasattr(trainer, "_data_loader_iter_obj")
    name = "_data_loader_iter_obj" if is_lazy else "_data_loader_iter"
    setattr(trainer, name, None)  # the workers of the old one end
    setattr(trainer, name, batches_from(trainer.data_loader, start_iter))


def evaluate_checkpoint(
    checkpointer: WSISCheckpointer, weights: str, key: str, test: Callable[[], dict]
) -> dict:
    """Load weights into the checkpointer's model and evaluate it.

    Args:
        checkpointer: its folder is where ``eval_metrics.json`` goes.
        weights: a file or address; where it is empty, the last checkpoint in the folder.
        key: the config key that names ``weights``.
        test: gives the metrics of the model; every process calls it.

    Returns:
        The metrics; on the main process.

    Raises:
        UserError: there are no weights, or they are of another model.
    """
    weights = weights or checkpointer.get_checkpoint_file()
    if not weights:
        raise UserError(
            f"nothing to evaluate: {key} is empty and {checkpointer.save_dir} has no checkpoint"
        )
    checkpointer.load(weights)
    metrics = test()
    if comm.is_main_process() and metrics:
        path = os.path.join(checkpointer.save_dir, "eval_metrics.json")
        write_json(path, metrics, indent=2)
        logger.info(f"Metrics: {path}\n{json.dumps(metrics, indent=2)}")
    return metrics
