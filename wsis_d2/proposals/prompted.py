"""Masks of a promptable segmenter, such as SAM, which is asked where objects were located."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from ..errors import look_up
from ..images import require_rgb_format, to_rgb
from ..structures import MaskProposals, encode_masks, mask_nms

PROMPTABLE_SEGMENTER_REGISTRY = Registry("PROMPTABLE_SEGMENTER")
PROMPTABLE_SEGMENTER_REGISTRY.__doc__ = """
Promptable segmenters by their name in ``PROPOSALS.PROMPTED.SEGMENTER``: subclasses of
:class:`PromptableSegmenter` that are built from a config.
"""

#: Label of a place in :class:`MaskPrompts` where there is no point.
NO_POINT = -1


@dataclass(frozen=True)
class MaskPrompts:
    """What is said to a promptable segmenter of P objects of one image.

    Each object has points, a box, or both. Masks are hints beside these.

    Attributes:
        size: (height, width) of the image in which coordinates count, whatever the size at which
            the segmenter sees it; the masks that it gives are of this size.
        points: (P, K, 2) float, (y, x) in pixels; the centre of the first pixel is at (0, 0).
        labels: (P, K) int64: 1 on the object, 0 beside it, -1 no point. Points come first.
        boxes: (P, 4) float, (x0, y0, x1, y1), pixel edges as in Detectron2's boxes; or None.
        masks: (P, h, w) float in [0, 1] over the image at any size, at least 0.5 on the object;
            or None.
    """

    size: tuple[int, int]
    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def batches(self, max_prompts: int) -> Iterator[MaskPrompts]:
        """The prompts in batches of equally many points, so that none has to be padded: a padded
        prompt is not quite the same prompt to SAM."""
        counts = (self.labels != NO_POINT).sum(1)
        for count in counts.unique().tolist():
            for index in (counts == count).nonzero()[:, 0].split(max_prompts):
                yield MaskPrompts(
                    self.size,
                    self.points[index, :count],
                    self.labels[index, :count],
                    None if self.boxes is None else self.boxes[index],
                    None if self.masks is None else self.masks[index],
                )

    def to(self, device: torch.device | str) -> MaskPrompts:
        """The prompts on a device."""
        tensors = (self.points, self.labels, self.boxes, self.masks)
        return MaskPrompts(self.size, *[t if t is None else t.to(device) for t in tensors])


class PromptableSegmenter(torch.nn.Module, ABC):
    """Gives masks of the objects that prompts point at.

    Registered in ``PROMPTABLE_SEGMENTER_REGISTRY`` and built from a config, weights included.
    """

    @abstractmethod
    def embed(self, image: Tensor) -> Any:
        """What :meth:`predict` has to know of an image; made once per image.

        Args:
            image: (3, H, W) uint8 RGB, on the segmenter's device.
        """

    @abstractmethod
    def predict(self, embedding: Any, prompts: MaskPrompts) -> tuple[Tensor, Tensor]:
        """The candidate masks of each prompt.

        Args:
            embedding: what :meth:`embed` gave.
            prompts: P of them, at least one, of equally many points, on the segmenter's device.

        Returns:
            (P, M, H, W) bool masks of the prompts' size; (P, M) float, the IoU with the object that
            the segmenter expects of each.
        """


class PromptedMasks:
    """Mask proposals of one image from a promptable segmenter; objectness is the predicted IoU,
    limited to [0, 1].

    Args:
        segmenter: who is asked.
        device: of the segmenter.
        image_format: ``INPUT.FORMAT`` of the images: "BGR", "RGB" or "L".
        prompts_per_batch: memory against speed.
        nms_threshold: masks that overlap one of higher predicted IoU by more than this IoU are
            dropped.
    """

    def __init__(
        self,
        segmenter: PromptableSegmenter,
        *,
        device: torch.device | str = "cpu",
        image_format: str = "BGR",
        prompts_per_batch: int = 16,
        nms_threshold: float = 0.9,
    ) -> None:
        require_rgb_format(image_format, "PROPOSALS.SOURCE 'prompted'")
        self.segmenter = segmenter.to(device).eval().requires_grad_(False)
        self.device = device
        self.image_format = image_format
        self.prompts_per_batch = prompts_per_batch
        self.nms_threshold = nms_threshold

    @torch.no_grad()
    def segment(self, image: Tensor, prompts: Sequence[MaskPrompts]) -> MaskProposals:
        """All candidate masks of all prompts, as proposals.

        Args:
            image: (C, h, w) uint8 in ``image_format``, at any size.
            prompts: one or more sets of prompts, of one size (H, W), which is that of the masks.
        """
        size = prompts[0].size
        batches = [b for p in prompts if len(p) for b in p.batches(self.prompts_per_batch)]
        if not batches:
            return MaskProposals([], np.zeros(0), size)
        embedding = self.segmenter.embed(to_rgb(image.to(self.device), self.image_format))
        masks, scores = [], []
        for batch in batches:
            batch_masks, batch_scores = self.segmenter.predict(embedding, batch.to(self.device))
            # Hundreds of masks of a large image are kept as run lengths alone.
            masks += encode_masks(batch_masks.flatten(0, 1).cpu().numpy())
            scores.append(batch_scores.flatten().float().clamp(0, 1).cpu())
        objectness = torch.cat(scores).numpy()
        kept = mask_nms(masks, objectness, self.nms_threshold)
        return MaskProposals([masks[i] for i in kept], objectness[kept], size)


def build_prompted_masks(cfg: CfgNode) -> PromptedMasks:
    """What ``PROPOSALS.PROMPTED`` describes, on ``MODEL.DEVICE``.

    Raises:
        UserError: no segmenter of that name, or it cannot be built.
    """
    settings = cfg.PROPOSALS.PROMPTED
    key = "PROPOSALS.PROMPTED.SEGMENTER"
    segmenter = look_up(PROMPTABLE_SEGMENTER_REGISTRY, settings.SEGMENTER, key)(cfg)
    return PromptedMasks(
        segmenter,
        device=cfg.MODEL.DEVICE,
        image_format=cfg.INPUT.FORMAT,
        prompts_per_batch=settings.PROMPTS_PER_BATCH,
        nms_threshold=settings.NMS_THRESHOLD,
    )
