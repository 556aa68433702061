"""Detectron2's LazyConfig, Python files in place of YAML: what tools/lazyconfig_train_net.py runs.

A file has the parts that Detectron2's own tool of that name reads (``model``, ``dataloader``,
``optimizer``, ``lr_multiplier`` and ``train``), and IRNet's a loader ``dataloader.train_images``.
Checkpoints are the same as those of the YAML configs, so that either kind goes on from the other.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from ..allocator import keep_freed_memory
from ..data.loader_workers import ignore_harmless_warnings, prepare_workers
from ..data.seeded_loader import seed_images
from ..errors import UserError
from ..parallel import synchronize_patiently
from ..weights.checkpoint import WSISCheckpointer
from .setup import prepare_folder
from .train_loop import (
    build_distributed_loop,
    evaluate_checkpoint,
    insert_mean_displacement,
    insert_seeded_iterations,
    insert_stops,
    resume_data,
    stop_at_divergence,
    unwrapped,
)


def load_lazy_config(config_file: str, overrides: list[str] | None = None) -> DictConfig:
    """Load a LazyConfig file.

    Such a file is a program, and loading runs it: load only those that you trust.

    Args:
        config_file: path of the Python file.
        overrides: ``key=value``, in Hydra's grammar where that is installed.

    Raises:
        UserError: missing file, an override without a value, or of a key that the file does not
            have. (Arguments of a call may be added.)
    """
    if not os.path.isfile(config_file):
        raise UserError(f"config file '{config_file}' does not exist: check --config-file")
    cfg = LazyConfig.load(config_file)
    for override in overrides or []:
        _check_override(cfg, override)
    try:
        return LazyConfig.apply_overrides(cfg, list(overrides or []))
    except Exception as error:  # Hydra's own errors, where Hydra is installed
        raise UserError(
            f"the overrides {' '.join(overrides or [])!r} cannot be used ({error}): correct them"
        ) from error


def lazy_device(_config_file: str, overrides: list[str]) -> str:
    """``train.device`` of the overrides, "cuda" (the default) where none of them is of it.

    For :func:`wsis_d2.engine.launch_from_args`. The file is not asked: it is a program, and this
    process may have to run it once more.
    """
    devices = [
        value for key, _, value in (o.partition("=") for o in overrides) if key == "train.device"
    ]
    return devices[-1] if devices else "cuda"


def _check_override(cfg: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or key.startswith("-"):
        raise UserError(
            f"'{override}' is no key=value: write overrides as in train.max_iter=100, after the "
            "options"
        )
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if isinstance(parent, DictConfig) and name not in parent and "_target_" not in parent:
        raise UserError(
            f"the config has no '{key}': '{parent_key or 'it'}' has {', '.join(map(str, parent))}"
        )
    if not OmegaConf.is_config(parent):
        raise UserError(f"the config has no '{parent_key}', which '{override}' is to change")


def setup_lazy(cfg: DictConfig, args: argparse.Namespace) -> None:
    """As :func:`wsis_d2.engine.setup.setup`, in ``train.output_dir``."""
    prepare_folder(cfg.train.output_dir)
    ignore_harmless_warnings()
    if OmegaConf.select(cfg, "train.device") == "cpu":
        keep_freed_memory()
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="wsis_d2")
    default_setup(cfg, args)


def train_lazy(cfg: DictConfig, resume: bool = False) -> dict:
    """Train ``cfg.model``; every process of the job calls this.

    Args:
        cfg: see the module; ``train.init_checkpoint`` is where training starts from.
        resume: go on from the last checkpoint in ``train.output_dir``, if there is one.

    Returns:
        Metrics at the end, {} without ``dataloader.evaluator``; on the main process.
    """
    # First: some datasets are registered only now, and the checkpoints name their classes.
    seed = cfg.train.get("seed", -1)
    loader = seed_images(_loader(cfg, "train"), seed)
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = build_distributed_loop(
        model, loader, optimizer, cfg.train.device, cfg.train.amp.enabled, **cfg.train.ddp
    )
    checkpointer = _checkpointer(cfg, trainer.model, trainer=trainer)
    stop_at_divergence(trainer, checkpointer)
    results: dict = {}

    def test() -> dict:
        results.clear()
        results.update(_test(cfg, trainer.model))
        return results

    registered = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
    ]
    if comm.is_main_process():
        registered.append(hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
    registered.append(hooks.EvalHook(cfg.train.eval_period, test))
    if comm.is_main_process():
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        registered.append(hooks.PeriodicWriter(writers, period=cfg.train.log_period))
    insert_mean_displacement(registered, model, lambda: _loader(cfg, "train_images"))
    insert_stops(registered, checkpointer)
    insert_seeded_iterations(registered, seed)
    trainer.register_hooks(registered)

    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start_iter = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    resume_data(trainer, start_iter, cfg.train.max_iter, seed)
    trainer.train(start_iter, cfg.train.max_iter)
    return results


def evaluate_lazy(cfg: DictConfig) -> dict:
    """Evaluate ``train.init_checkpoint``, or where it is empty the output's last checkpoint.

    Returns:
        Metrics, also written to ``train.output_dir/eval_metrics.json``; on the main process.

    Raises:
        UserError: there are no weights, or they are of another model.
    """
    model = instantiate(cfg.model).to(cfg.train.device)
    return evaluate_checkpoint(
        _checkpointer(cfg, model, exact=True),
        cfg.train.init_checkpoint,
        "train.init_checkpoint",
        lambda: _test(cfg, model),
    )


def _loader(cfg: DictConfig, name: str) -> Iterable:
    """``dataloader.<name>``, whose workers end with this process."""
    return prepare_workers(instantiate(cfg.dataloader[name]))


def _checkpointer(cfg: DictConfig, model: torch.nn.Module, **options: Any) -> WSISCheckpointer:
    """The model's checkpointer: as that of the YAML configs, so their files can be exchanged."""
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    name = names if isinstance(names, str) or not names else names[0]
    classes = MetadataCatalog.get(name).get("thing_classes", ()) if name else ()
    return WSISCheckpointer(
        model,
        cfg.train.output_dir,
        meta_architecture=type(unwrapped(model)).__name__,
        classes=classes,
        **options,
    )


def _test(cfg: DictConfig, model: torch.nn.Module) -> dict:
    """Metrics of the test set, printed; {} without one, and on all processes but the main one."""
    if "evaluator" not in cfg.dataloader:
        return {}
    # The loader first: it makes the annotations that an evaluator reads.
    loader = _loader(cfg, "test")
    metrics = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    synchronize_patiently()  # an evaluator may take long on the main process
    if comm.is_main_process():
        print_csv_format(metrics)
    return metrics or {}
