"""Contour maps that nobody has drawn: class boundaries of an IRNet, outlines of a student's masks.

They drive the built-in proposals in place of contours learnt from annotations of other data: image
labels give class boundaries, these give proposals, proposals give masks, a network learns from the
masks, and the outlines of what it predicts are contours of the next round.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances

from ..errors import UserError
from .image_size import reduce_input, resize_input

__all__ = ["ContourNetwork", "either_contour", "outlines"]


def outlines(instances: Instances) -> np.ndarray:
    """How likely a pixel is on the outline of an object, by instances that may be wrong.

    An instance's score is taken for the probability that its outline is there, and those of
    several instances for independent. The image's border is no outline.

    Args:
        instances: with ``pred_masks`` (N, H, W) bool and ``scores`` (N,) in [0, 1].

    Returns:
        (H, W) float32 in [0, 1]; an outline is a pixel wide on both sides of it.
    """
    absent = np.ones(instances.image_size, dtype=np.float32)
    square = np.ones((3, 3), np.uint8)
    for mask, score in zip(instances.pred_masks.cpu().numpy(), instances.scores.tolist()):
        edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, square)
        absent[edge > 0] *= 1 - score
    return 1 - absent


def either_contour(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The probability of a contour where either of two maps has one, if they are independent.

    Args:
        first, second: (h, w) float32 in [0, 1]; a smaller one is resized to the larger, bilinearly.
    """
    large, small = sorted((first, second), key=lambda contours: -contours.size)
    if small.shape != large.shape:
        small = cv2.resize(small, large.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return 1 - (1 - large) * (1 - small)


class ContourNetwork(torch.nn.Module):
    """A trained network as a model that gives contour maps of images.

    Args:
        network: an :class:`wsis_d2.modeling.IRNet`, which gives its class boundary map; or any
            model that gives ``instances`` with ``pred_masks``, whose outlines are taken.
        resize: resizing of the input of a model that gives instances.
        min_score: instances below it have no outline.
        max_pixels: larger images are reduced before an IRNet sees them; 0: none are.
    """

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        resize: T.ResizeShortestEdge | None,
        min_score: float,
        max_pixels: int,
    ):
        super().__init__()
        self.network = network
        self.resize = resize
        self.min_score = min_score
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``INPUT`` and ``CONTOURS``."""
        side, resize = cfg.INPUT.MIN_SIZE_TEST, None
        if cfg.DATASETS.SUPERVISION == "masks":
            resize = T.ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST)
        return {
            "network": build_model(cfg),
            "resize": resize,
            "min_score": cfg.CONTOURS.MIN_SCORE,
            "max_pixels": cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: dicts with ``image`` (C, H, W), ``height``, ``width`` and
                ``image_labels`` (K,) int64: instances of other classes have no outline.

        Returns:
            per image ``{"contours": (h, w) float32 in [0, 1]}``, an array, of a size of its own.

        Raises:
            UserError: the model gives neither class boundaries nor instances with masks.
        """
        return [{"contours": self._contours(x)} for x in batched_inputs]

    def _contours(self, x: dict) -> np.ndarray:
        resized = resize_input(x, self.resize) if self.resize else reduce_input(x, self.max_pixels)
        (output,) = self.network([resized])
        if "boundary" in output:
            return output["boundary"].cpu().numpy()
        instances = output.get("instances")
        if instances is None or not instances.has("pred_masks"):
            raise UserError(
                f"a {type(self.network).__name__} gives no contours: take the config and the "
                "weights of an IRNet, or of a network that was trained on masks"
            )
        instances = instances.to("cpu")
        of_label = torch.isin(instances.pred_classes, x["image_labels"])
        return outlines(instances[of_label & (instances.scores >= self.min_score)])
