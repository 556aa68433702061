"""Open-vocabulary detectors: who draws boxes around what a text names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from fvcore.common.registry import Registry
from torch import Tensor

TEXT_DETECTOR_REGISTRY = Registry("TEXT_DETECTOR")
TEXT_DETECTOR_REGISTRY.__doc__ = """
Open-vocabulary detectors by their name in ``PSEUDO_LABELS.TEXT_BOXES.DETECTOR``: subclasses of
:class:`TextDetector` that are built from a config.
"""


class TextDetector(torch.nn.Module, ABC):
    """Finds objects that texts name.

    Registered in ``TEXT_DETECTOR_REGISTRY`` and built from a config, weights included.

    Attributes:
        texts_are_independent: whether the boxes, and the score of each text, are the same whatever
            the other texts are.
    """

    texts_are_independent: bool = False

    @abstractmethod
    def detect(self, image: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Boxes of an image and how well each text fits each.

        Args:
            image: (3, H, W) uint8 RGB.
            texts: T short ones such as "potted plant", at least one.

        Returns:
            (N, 4) float boxes (x0, y0, x1, y1) in pixels of the image, pixel edges as in
            Detectron2's boxes, which may reach over its border; (N, T) float scores in [0, 1].
        """
