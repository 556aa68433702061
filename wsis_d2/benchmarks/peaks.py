"""Peaks and their responses; and peaks in batches beside a network pass for each."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..engine import Trainer, load_config
from ..layers import find_peaks, peak_response_maps
from ..modeling import PRMClassifier
from .floors import count_work
from .measure import compare
from .stages import BENCHMARK_REGISTRY, Benchmark, Workload

_CONFIG = "wise_mobile/classifier.yaml"
_NUM_PEAKS = 10


@BENCHMARK_REGISTRY.register()
def peaks(workload: Workload) -> Benchmark:
    """Class response maps of an image and their peaks."""
    network, images, size = _peak_network(workload)

    @torch.no_grad()
    def run(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return network.stimulate(network.class_response_maps(image))

    work = partial(count_work, run)
    return Benchmark(run, images, f"image {size} x {size}", work, device=workload.device)


@BENCHMARK_REGISTRY.register()
def peak_responses(workload: Workload) -> Benchmark:
    """Peak backpropagation of the strongest peaks of an image."""
    network, images, size = _peak_network(workload)
    peaks_per_batch = workload.config(_CONFIG).MODEL.PRM.PEAKS_PER_BATCH

    def run(x: tuple[Tensor, Tensor]) -> Tensor:
        return peak_response_maps(
            network.class_response_maps, *x, network.upsample, peaks_per_batch
        )

    return Benchmark(
        run,
        [(image, _strongest_peaks(network, image)) for image in images],
        f"{_NUM_PEAKS} peaks, image {size} x {size}",
        partial(count_work, run),
        device=workload.device,
    )


def _peak_network(workload: Workload) -> tuple[PRMClassifier, list[Tensor], int]:
    """The network, its input (1, 3, s, s) of each scene, and s."""
    torch.manual_seed(0)
    cfg = workload.config(_CONFIG)
    network = Trainer.build_model(cfg).eval()
    size = cfg.INPUT.IMAGE_LEVEL.SQUARE_SIZE
    inputs = [network.preprocess([s.model_input(size)]).tensor for s in workload.scenes]
    return network, inputs, size


@torch.no_grad()
def _strongest_peaks(network: PRMClassifier, image: Tensor) -> Tensor:
    _, found, responses = network.stimulate(network.class_response_maps(image))
    return found[responses.topk(min(_NUM_PEAKS, len(responses))).indices]


def peak_benchmarks(device: str = "cpu") -> list[dict]:
    """16 peaks of pictures of two sizes.

    Returns:
        What :func:`~wsis_d2.benchmarks.run_benchmarks` gives, without memory.
    """
    return [peak_backpropagation(device, size, batch) for size, batch in ((64, 16), (128, 16))]


def peak_backpropagation(device: str, size: int, peaks_per_batch: int) -> dict:
    """16 peaks of a slim ResNet-50 of stride 8: batches of peaks, or a network pass for each."""
    torch.manual_seed(0)
    model = _slim_classifier(device)
    image = torch.randn(1, 3, size, size, device=device)
    with torch.no_grad():
        peaks = find_peaks(model.class_response_maps(image))[:16]

    def batched() -> torch.Tensor:
        return peak_response_maps(
            model.class_response_maps, image, peaks, peaks_per_batch=peaks_per_batch
        )

    def one_by_one() -> torch.Tensor:
        # As the published code does it.
        maps = [peak_response_maps(model.class_response_maps, image, p[None]) for p in peaks]
        return torch.cat(maps)

    name = f"peak backpropagation, {len(peaks)} peaks, {size} x {size}, {device}"
    figures, _ = compare(batched, one_by_one, device)
    return {"name": name, **figures}


def _slim_classifier(device: str) -> PRMClassifier:
    options = {
        "MODEL.META_ARCHITECTURE": "PRMClassifier",
        "MODEL.BACKBONE.NAME": "build_wsis_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 16,
        "MODEL.RESNETS.STRIDES": [2, 2, 2, 1],
        "MODEL.RESNETS.STEM_MAX_POOL": False,
        "MODEL.CLASSIFIER.NUM_CLASSES": 5,
        "MODEL.DEVICE": device,
    }
    return Trainer.build_model(load_config("", [x for kv in options.items() for x in kv])).eval()
