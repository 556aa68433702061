"""Timings of what the plugin makes fast, side by side with the plain way, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..layers import find_peaks, peak_response_maps
from ..modeling import PRMClassifier
from .setup import load_config
from .trainer import Trainer

#: Pairs of runs after one warm-up of each; the median ratio is reported.
NUM_PAIRS = 3


def run_benchmarks(device: str = "cpu") -> list[dict]:
    """All benchmarks.

    Returns:
        One dict each: ``name``, ``seconds`` and ``baseline_seconds`` (medians), ``speedup`` (median
        of the pairwise ratios), ``max_difference`` (largest difference of the results).
    """
    return [_peak_backpropagation(device, size, batch) for size, batch in ((64, 16), (128, 16))]


def _peak_backpropagation(device: str, size: int, peaks_per_batch: int) -> dict:
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
    return {"name": name, **compare(batched, one_by_one, device)}


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


def compare(
    ours: Callable[[], torch.Tensor], baseline: Callable[[], torch.Tensor], device: str
) -> dict:
    """Run both in turn and compare times and results; see :func:`run_benchmarks`."""
    difference = (ours() - baseline()).abs().max().item()
    pairs = [(_seconds(ours, device), _seconds(baseline, device)) for _ in range(NUM_PAIRS)]
    return {
        "seconds": statistics.median(a for a, _ in pairs),
        "baseline_seconds": statistics.median(b for _, b in pairs),
        "speedup": statistics.median(b / a for a, b in pairs),
        "max_difference": difference,
    }


def _seconds(function: Callable[[], torch.Tensor], device: str) -> float:
    start = time.perf_counter()
    function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
