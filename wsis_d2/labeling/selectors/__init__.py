"""Which proposal is the object? One file per kind of selector."""

from .base import SELECTOR_REGISTRY, Selector, build_selector
from .boxes import BoxOverlap
from .density import DensityObjectness, DensityScore
from .dice import DiceWithResponse
from .objectness import BestObjectness, SampledObjectness
from .prm import PRMScore

__all__ = [
    "SELECTOR_REGISTRY",
    "BestObjectness",
    "BoxOverlap",
    "DensityObjectness",
    "DensityScore",
    "DiceWithResponse",
    "PRMScore",
    "SampledObjectness",
    "Selector",
    "build_selector",
]
