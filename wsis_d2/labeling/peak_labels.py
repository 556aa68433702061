"""From peaks and class-agnostic proposals to masks: WISE, and PRM's own retrieval."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as mask_utils

from ..errors import UserError
from ..proposals import MaskProposals, ProposalSource, build_proposal_source
from .build import LABEL_GENERATOR_REGISTRY
from .peak_localizer import PeakCues, PeakLocalizer


class PeakLabelGenerator(torch.nn.Module, ABC):
    """One mask proposal per peak of a :class:`PRMClassifier`.

    Input: the standard list of dicts with ``image``, ``image_labels``, ``file_name``, ``image_id``,
    ``height``, ``width``. Output: per image ``{"instances": Instances, "cues": PeakCues}``; the
    instances have ``pred_masks`` (N, H, W) bool, ``pred_boxes``, ``scores`` in [0, 1] and
    ``pred_classes`` at the original size, best score first.
    """

    gives_label_maps = False
    class_agnostic_nms = False

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        localizer: PeakLocalizer,
        proposals: ProposalSource,
        nms_threshold: float,
        min_score: float,
    ):
        super().__init__()
        self.network = network
        self.localizer = localizer
        self.proposals = proposals
        self.nms_threshold = nms_threshold
        self.min_score = min_score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``PROPOSALS`` and ``PSEUDO_LABELS``."""
        return {
            "network": build_model(cfg),
            "localizer": PeakLocalizer(cfg),
            "proposals": build_proposal_source(cfg),
            "nms_threshold": cfg.PSEUDO_LABELS.NMS_THRESHOLD,
            "min_score": cfg.PSEUDO_LABELS.MIN_SCORE,
        }

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Label each image; see the class."""
        return [self._label(x) for x in batched_inputs]

    def _label(self, x: dict) -> dict:
        image = self.network.preprocess([x]).tensor
        size = (x["height"], x["width"])
        cues = self.localizer(self.network, image, x["image_labels"], size)
        proposals = self.proposals.get(x)
        chosen, scores = self.select(cues, proposals, x)
        matched = chosen >= 0  # some peaks lie in no proposal
        classes = cues.class_ids.cpu().numpy()
        index = np.flatnonzero(matched & (scores >= self.min_score))
        index = index[np.argsort(-scores[index], kind="stable")]
        index = index[self._suppress(proposals, chosen[index], classes[index])]
        instances = Instances(size)
        masks = torch.from_numpy(proposals.decode(chosen[index]).reshape(len(index), *size))
        instances.pred_masks = masks
        instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
        instances.scores = torch.from_numpy(scores[index].astype(np.float32))
        instances.pred_classes = torch.from_numpy(classes[index])
        return {"instances": instances, "cues": cues}

    @abstractmethod
    def select(
        self, cues: PeakCues, proposals: MaskProposals, x: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """(P,) index of each peak's proposal, -1 for none, and (P,) its score in [0, 1]."""

    def _suppress(
        self, proposals: MaskProposals, chosen: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        """Greedy non-maximum suppression of masks that are sorted by score; indices to keep."""
        masks = [proposals.masks[i] for i in chosen]
        if not masks:
            return np.zeros(0, dtype=np.int64)
        overlaps = mask_utils.iou(masks, masks, [False] * len(masks)) > self.nms_threshold
        overlaps |= chosen[:, None] == chosen[None, :]
        if not self.class_agnostic_nms:
            overlaps &= classes[:, None] == classes[None, :]
        kept: list[int] = []
        for i in range(len(masks)):
            if not overlaps[i, kept].any():
                kept.append(i)
        return np.asarray(kept, dtype=np.int64)


@LABEL_GENERATOR_REGISTRY.register()
class WISE(PeakLabelGenerator):
    """Per peak, a proposal that contains it (Laradji et al., BMVC 2019, section 3.2).

    The score, which the paper leaves open, is the proposal's objectness times the class's
    probability.

    Args:
        selection: "best", the proposal of highest objectness, or "sampled", one drawn in proportion
            to objectness, seeded by ``seed`` and the image.
        min_objectness: Proposals below it are not considered.
        seed: Of the sampling.
        kwargs: See :class:`PeakLabelGenerator`.
    """

    @configurable
    def __init__(self, *, selection: str, min_objectness: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        if selection not in ("best", "sampled"):
            raise UserError(
                f"PSEUDO_LABELS.WISE.SELECTION is {selection!r}: choose 'best' or 'sampled'"
            )
        self.selection = selection
        self.min_objectness = min_objectness
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.WISE`` and ``SEED`` too."""
        return {
            **super().from_config(cfg),
            "selection": cfg.PSEUDO_LABELS.WISE.SELECTION,
            "min_objectness": cfg.PSEUDO_LABELS.WISE.MIN_OBJECTNESS,
            "seed": max(cfg.SEED, 0),
        }

    def select(self, cues, proposals, x):
        """See :meth:`PeakLabelGenerator.select`."""
        objectness = proposals.objectness
        candidates = proposals.containing(cues.points.cpu().numpy())
        candidates &= objectness >= self.min_objectness
        chosen = np.full(len(cues), -1, dtype=np.int64)
        for i, row in enumerate(candidates):
            if row.any():
                chosen[i] = self._choose(np.flatnonzero(row), objectness, x, i)
        scores = cues.class_scores.cpu().numpy().astype(np.float64)
        scores *= np.where(chosen >= 0, objectness[chosen], 0) if len(proposals) else 0
        return chosen, scores

    def _choose(self, candidates: np.ndarray, objectness: np.ndarray, x: dict, peak: int) -> int:
        if self.selection == "best":
            return candidates[0]  # proposals come sorted by objectness
        weights = objectness[candidates].astype(np.float64)
        if weights.sum() <= 0:
            weights = np.ones(len(candidates))
        # Seeded by the image, so that the labels do not depend on how images are shared out.
        image_seed = zlib.crc32(str(x["image_id"]).encode())
        rng = np.random.default_rng((self.seed, image_seed, peak))
        return rng.choice(candidates, p=weights / weights.sum())


@LABEL_GENERATOR_REGISTRY.register()
class PRM(PeakLabelGenerator):
    """PRM's instance mask retrieval (Zhou et al., CVPR 2018, section 3.3, equation 5).

    A proposal S scores ``balance * sum(R S) + sum(R contour(S)) - penalty * sum(Q S)`` with the
    peak response map R, the background Q of the class response map and the morphological gradient
    as contour; the score is divided by ``balance + 1``, its upper bound, and clipped at 0.

    Args:
        balance_factor: Weight of the response inside the proposal.
        penalty_factor: Weight of the background inside the proposal.
        bg_threshold_factor: Q is where the class response, counted from its minimum, is below this
            factor times its mean.
        contour_width: Side of the structuring element, in pixels of the network's input.
        kwargs: See :class:`PeakLabelGenerator`. Suppression is over all classes, as published.
    """

    class_agnostic_nms = True

    @configurable
    def __init__(
        self,
        *,
        balance_factor: float,
        penalty_factor: float,
        bg_threshold_factor: float,
        contour_width: int,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.balance_factor = balance_factor
        self.penalty_factor = penalty_factor
        self.bg_threshold_factor = bg_threshold_factor
        self.contour_width = contour_width

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.PRM`` too."""
        prm = cfg.PSEUDO_LABELS.PRM
        return {
            **super().from_config(cfg),
            "balance_factor": prm.BALANCE_FACTOR,
            "penalty_factor": prm.PENALTY_FACTOR,
            "bg_threshold_factor": prm.BG_THRESHOLD_FACTOR,
            "contour_width": prm.CONTOUR_WIDTH,
        }

    def select(self, cues, proposals, x):
        """See :meth:`PeakLabelGenerator.select`."""
        if not len(cues) or not len(proposals):
            return np.full(len(cues), -1, dtype=np.int64), np.zeros(len(cues))
        scores = self.retrieval_scores(
            cues.response_maps.cpu(),
            cues.class_response_maps[cues.class_ids].cpu(),
            torch.from_numpy(proposals.decode()),
        )
        best, chosen = scores.max(dim=1)
        upper_bound = self.balance_factor + 1
        return chosen.numpy(), (best / upper_bound).clamp(0, 1).numpy().astype(np.float64)

    def retrieval_scores(
        self, responses: torch.Tensor, class_responses: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Equation 5 for every peak and proposal.

        Args:
            responses: (P, h, w) float, peak response maps.
            class_responses: (P, h', w') float, class response map of each peak's class.
            masks: (S, H, W) bool, proposals.

        Returns:
            (P, S) float.
        """
        size = responses.shape[-2:]
        masks = F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0]
        kernel = np.ones((self.contour_width, self.contour_width), np.uint8)
        contours = torch.from_numpy(
            np.stack(
                [
                    cv2.morphologyEx(m, cv2.MORPH_GRADIENT, kernel)
                    for m in masks.numpy().astype(np.uint8)
                ]
            )
        )
        response = F.interpolate(
            class_responses[:, None], size=size, mode="bicubic", align_corners=False
        )[:, 0]
        response = response - response.amin((1, 2), keepdim=True)
        mean = response.mean((1, 2), keepdim=True)
        background = (response < self.bg_threshold_factor * mean).float().flatten(1)
        responses, inside = responses.flatten(1), masks.flatten(1)
        return (
            self.balance_factor * responses @ inside.T
            + responses @ contours.flatten(1).float().T
            - self.penalty_factor * background @ inside.T
        )
