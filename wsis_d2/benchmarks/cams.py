"""Class activation maps and the seeds that are made of them."""

from __future__ import annotations

from functools import partial

import torch

from ..labeling import (
    MultiScaleCAM,
    build_seed_function,
    full_size_cam,
    optimize_for_inference,
)
from .floors import count_work, crf_work
from .scenes import Scene
from .stages import BENCHMARK_REGISTRY, Benchmark, Work, Workload


@BENCHMARK_REGISTRY.register()
def cam_inference(workload: Workload) -> Benchmark:
    """CAMs of an image at all scales, mirrored too."""
    torch.manual_seed(0)
    model = MultiScaleCAM(workload.config("irnet_mobile/classifier.yaml")).eval()
    optimize_for_inference(model.classifier)

    def run(x: dict) -> list[dict]:
        return model([x])

    return Benchmark(
        run,
        [scene.model_input() for scene in workload.scenes],
        f"{workload.what}, scales {', '.join(map(str, model.scales))}",
        partial(count_work, run),
        device=workload.device,
    )


@BENCHMARK_REGISTRY.register()
def seeds(workload: Workload) -> Benchmark:
    """IRNet's seeds of an image from its CAMs: two dense CRFs."""
    cfg = workload.config("irnet_mobile/seeds.yaml")
    make_seeds = build_seed_function(cfg)

    def run(scene: Scene):
        cam = full_size_cam(scene.cam(cfg.CAM.STRIDE), scene.size, cfg.CAM.STRIDE)
        return make_seeds(scene.image, cam.to(workload.device), scene.labels)

    def work(scene: Scene) -> Work:
        one = crf_work(*scene.size, 1 + len(scene.labels), make_seeds.keywords["crf"])
        return Work({dtype: 2 * n for dtype, n in one.flops.items()}, 2 * one.bytes)

    return Benchmark(run, workload.scenes, workload.what, work, device=workload.device)
