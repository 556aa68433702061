"""Peak backpropagation: peaks in batches beside a network pass for each."""

from __future__ import annotations

import torch

from ..engine import Trainer, load_config
from ..layers import find_peaks, peak_response_maps
from ..modeling import PRMClassifier
from .measure import compare


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
