"""Images with objects in known places, and all that the stages would find out about them.

Networks of random weights find nothing, so what follows them would have nothing to do, or far too
much: their stages work on what a trained network might say of a scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ..layers import UNKNOWN
from ..structures import MaskProposals

NUM_CLASSES = 20
_NUM_OBJECTS = 4
_NUM_OBJECT_CLASSES = 2  # a VOC image has 1.5 on average


def draw_image(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 RGB: noise in octaves, which has edges and textures of all sizes."""
    image = np.zeros((*size, 3), np.float32)
    for cell in (64, 16, 4, 1):
        noise = rng.random((size[0] // cell + 2, size[1] // cell + 2, 3), np.float32)
        image += cell**0.5 * cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    low, high = np.percentile(image, (1, 99))
    return ((image - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def draw_ellipses(
    size: tuple[int, int], number: int, rng: np.random.Generator, sides: tuple[float, float]
) -> np.ndarray:
    """(number, H, W) bool: ellipses anywhere, half axes within ``sides`` as parts of the image."""
    masks = np.zeros((number, *size), np.uint8)
    for mask in masks:
        centre = (rng.uniform(0.15, 0.85, 2) * size[::-1]).astype(int)
        axes = (rng.uniform(*sides, 2) * min(size)).astype(int)
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
    return masks.astype(bool)


@dataclass(frozen=True)
class Scene:
    """One image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, objects that do not overlap.
        class_ids: (N,) int64.
    """

    image: np.ndarray
    masks: np.ndarray
    class_ids: np.ndarray

    @classmethod
    def on(cls, image: np.ndarray, rng: np.random.Generator) -> Scene:
        """A scene of objects in random places, later ones in front of earlier ones."""
        masks = draw_ellipses(image.shape[:2], _NUM_OBJECTS, rng, (0.1, 0.3))
        for i, mask in enumerate(masks):
            masks[:i] &= ~mask
        masks = masks[masks.any((1, 2))]
        classes = np.sort(rng.choice(NUM_CLASSES, _NUM_OBJECT_CLASSES, replace=False))
        return cls(image, masks, classes[np.arange(len(masks)) % len(classes)])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[:2]

    @cached_property
    def labels(self) -> Tensor:
        """(K,) int64, the classes in the image."""
        return torch.from_numpy(np.unique(self.class_ids))

    def model_input(self, side: int = 0) -> dict:
        """The dict that Detectron2's models take.

        Args:
            side: of the square that the image is resized to; 0: its own size.
        """
        image, seeds = self.image, self.seeds()
        if side:
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            seeds = cv2.resize(seeds, (side, side), interpolation=cv2.INTER_NEAREST)
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "image_labels": self.labels,
            "sem_seg": torch.from_numpy(seeds),
            "height": self.size[0],
            "width": self.size[1],
            "image_id": 0,
            "file_name": "scene.jpg",
        }

    def seeds(self) -> np.ndarray:
        """(H, W) uint8: 0 background, c + 1 class c, 255 along the outlines."""
        labels = ((self.class_ids + 1)[:, None, None] * self.masks).max(0).astype(np.uint8)
        kernel = np.ones((9, 9), np.uint8)
        labels[cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, kernel) > 0] = UNKNOWN
        return labels

    def cam(self, stride: int = 4) -> Tensor:
        """(K, h, w) float in [0, 1]: soft hills on the objects of each class."""
        cells = self.masks[:, ::stride, ::stride]
        classes = [cells[self.class_ids == c].any(0) for c in self.labels.numpy()]
        maps = np.stack(classes).astype(np.float32)
        hills = np.stack([cv2.GaussianBlur(m, (0, 0), max(m.shape) / 20) for m in maps])
        return torch.from_numpy(hills / hills.max((1, 2), keepdims=True))

    def boundary(self, stride: int = 4) -> Tensor:
        """(h, w) float in [0, 1]: high along the outlines of the objects, low elsewhere."""
        owners = self._owners(stride)
        edges = cv2.morphologyEx(owners, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        soft = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 0.7)
        return torch.from_numpy((soft + 0.05 * self._noise(1, soft.shape)[0]).clip(0, 1))

    def displacement(self, stride: int = 4) -> Tensor:
        """(2, h, w) float, (dy, dx) in cells: to the centre in objects, noise outside."""
        owners = self._owners(stride)
        positions = np.stack(np.indices(owners.shape)).astype(np.float32)
        field = 0.5 * self._noise(2, owners.shape)
        for i in range(1, len(self.masks) + 1):
            inside = owners == i
            if inside.any():
                centre = positions[:, inside].mean(1, keepdims=True)
                field[:, inside] += 0.5 * (centre - positions[:, inside])
        return torch.from_numpy(field)

    def instances(self) -> Instances:
        """The objects as a generator gives them."""
        masks = torch.from_numpy(self.masks)
        return Instances(
            self.size,
            pred_masks=masks,
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
            scores=torch.linspace(1, 0.5, len(masks)),
            pred_classes=torch.from_numpy(self.class_ids),
        )

    def proposals(self, number: int) -> MaskProposals:
        """So many mask proposals, objects and others."""
        rng = np.random.default_rng(0)
        others = draw_ellipses(self.size, number - len(self.masks), rng, (0.03, 0.4))
        return MaskProposals.from_masks(np.concatenate([self.masks, others]), rng.random(number))

    def _owners(self, stride: int) -> np.ndarray:
        """(h, w) uint8: 0, or the number of the object from 1 on."""
        numbers = np.arange(1, len(self.masks) + 1, dtype=np.uint8)[:, None, None]
        return (numbers * self.masks[:, ::stride, ::stride]).max(0)

    def _noise(self, channels: int, size: tuple[int, int]) -> np.ndarray:
        """(channels, h, w) float32, smooth, of a standard deviation of about 1."""
        noise = np.random.default_rng(0).standard_normal((channels, *size), np.float32)
        return np.stack([3.5 * cv2.GaussianBlur(n, (0, 0), 1.0) for n in noise])
