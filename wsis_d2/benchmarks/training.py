"""Iterations of the trainings: forward, backward and the step; loading and augmentation not."""

from __future__ import annotations

from functools import partial
from itertools import repeat

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from ..engine import Trainer, build_optimizer
from ..engine.train_loop import build_train_loop
from .floors import count_work
from .stages import BENCHMARK_REGISTRY, Benchmark, Workload


@BENCHMARK_REGISTRY.register()
def classifier_iteration(workload: Workload) -> Benchmark:
    """The CAM classifier on a batch of crops."""
    return _iteration(workload, "irnet_mobile/classifier.yaml")


@BENCHMARK_REGISTRY.register()
def irnet_iteration(workload: Workload) -> Benchmark:
    """IRNet's heads on a batch of crops with seeds."""
    return _iteration(workload, "irnet_mobile/irnet.yaml")


@BENCHMARK_REGISTRY.register()
def affinitynet_iteration(workload: Workload) -> Benchmark:
    """AffinityNet on a batch of crops with seeds."""
    return _iteration(workload, "affinitynet_mobile/affinitynet.yaml")


def _iteration(workload: Workload, config: str) -> Benchmark:
    torch.manual_seed(0)
    cfg = workload.config(config)
    size, number = cfg.INPUT.IMAGE_LEVEL.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH
    scenes = workload.scenes
    batch = [scenes[i % len(scenes)].model_input(size) for i in range(number)]
    model = Trainer.build_model(cfg)
    loop = build_train_loop(
        model, repeat(batch), build_optimizer(cfg, model), workload.device, cfg.SOLVER.AMP.ENABLED
    )
    return Benchmark(
        _step,
        [loop],
        f"{number} crops {size} x {size}",
        partial(count_work, _step),
        device=workload.device,
    )


def _step(loop: SimpleTrainer) -> None:
    with EventStorage():
        loop.run_step()
