"""Which proposal is the object? One file per kind of selector."""

from .base import SELECTOR_REGISTRY, Selector, build_selector
from .density import DensityObjectness, DensityScore
from .dice import DiceWithResponse
from .objectness import BestObjectness, SampledObjectness
from .prm import PRMScore

__all__ = [
    "SELECTOR_REGISTRY",
    "BestObjectness",
    "DensityObjectness",
    "DensityScore",
    "DiceWithResponse",
    "PRMScore",
    "SampledObjectness",
    "Selector",
    "build_selector",
]
