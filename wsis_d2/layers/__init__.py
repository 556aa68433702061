"""Tensor functions of the methods: no config, no files, no Detectron2."""

from .peak_backprop import peak_response_maps
from .peak_stimulation import find_peaks, peak_stimulation

__all__ = ["find_peaks", "peak_response_maps", "peak_stimulation"]
