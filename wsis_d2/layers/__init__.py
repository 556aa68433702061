"""Tensor functions of the methods: no config, no files, no Detectron2."""

from .dense_crf import CRFSettings, dense_crf_from_labels, dense_crf_from_scores
from .peak_backprop import peak_response_maps
from .peak_stimulation import find_peaks, peak_stimulation
from .relation_losses import affinitynet_losses, irnet_losses

__all__ = [
    "CRFSettings",
    "affinitynet_losses",
    "dense_crf_from_labels",
    "dense_crf_from_scores",
    "find_peaks",
    "irnet_losses",
    "peak_response_maps",
    "peak_stimulation",
]
