"""Which mask proposal does each located object take? WISE's choices, PRM's retrieval and Dice."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable

from ..proposals import MaskProposals
from .build import SELECTOR_REGISTRY
from .locations import LocationCues


class Selector(ABC):
    """Scores the mask proposals of an image for each of its located objects, and chooses.

    Registered in ``SELECTOR_REGISTRY`` and built from a config. A subclass says in :meth:`match`
    how well proposals fit; the best one is chosen.
    """

    @abstractmethod
    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """How well each proposal fits each object.

        Args:
            cues: P objects, at least one.
            proposals: S proposals, at least one, best objectness first.

        Returns:
            (P, S) float64, the greater the better; -inf where the proposal is no candidate. Its
            part in [0, 1] counts as the score of a label, and as the weight of a candidate.
        """

    def __call__(
        self, cues: LocationCues, proposals: MaskProposals, x: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose a proposal for each object.

        Args:
            cues: P objects.
            proposals: S proposals; may be none.
            x: The model input dict.

        Returns:
            (P,) int64, index of each object's proposal, -1 for none; (P,) float64 in [0, 1], score.
        """
        matches = self._match(cues, proposals)
        chosen = np.full(len(cues), -1, dtype=np.int64)
        scores = np.zeros(len(cues))
        for i, row in enumerate(matches):
            if (row > -np.inf).any():
                chosen[i] = self._choose(row, x, i)
                scores[i] = row[chosen[i]].clip(0, 1)
        return chosen, scores

    def candidates(
        self, cues: LocationCues, proposals: MaskProposals, max_candidates: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The proposals that each object may take, so that others can draw among them.

        Args:
            cues: P objects.
            proposals: S proposals; may be none.
            max_candidates: At most this many per object.

        Returns:
            P pairs of (N,) int64 indices, best first, and (N,) float64 weights that sum to 1;
            N = 0 where the object has no proposal.
        """
        pairs = []
        for row in self._match(cues, proposals):
            index = np.argsort(-row, kind="stable")[:max_candidates]
            index = index[row[index] > -np.inf]
            pairs.append((index, _weights(row[index])))
        return pairs

    def _match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        if not len(cues) or not len(proposals):
            return np.zeros((len(cues), len(proposals)))
        return self.match(cues, proposals)

    def _choose(self, row: np.ndarray, x: dict, index: int) -> int:
        """The proposal for the object ``index`` of image ``x``; ``row`` has at least one."""
        return int(row.argmax())


def _weights(matches: np.ndarray) -> np.ndarray:
    """(N,) probabilities in proportion to the matches; equal ones where none is positive."""
    weights = matches.clip(min=0)
    if weights.sum() <= 0:
        weights = np.ones(len(matches))
    return weights / weights.sum() if len(weights) else weights


@SELECTOR_REGISTRY.register()
class BestObjectness(Selector):
    """The proposal of highest objectness that contains the point (WISE: Laradji et al., BMVC 2019,
    section 3.2).

    The score, which the paper leaves open, is the objectness times the certainty of the class.

    Args:
        min_objectness: Proposals below it are not considered.
    """

    @configurable
    def __init__(self, *, min_objectness: float = 0.0):
        self.min_objectness = min_objectness

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.WISE``."""
        return {"min_objectness": cfg.PSEUDO_LABELS.WISE.MIN_OBJECTNESS}

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        candidates = proposals.containing(cues.points.cpu().numpy())
        candidates &= proposals.objectness >= self.min_objectness
        class_scores = cues.class_scores.cpu().numpy().astype(np.float64)
        return np.where(candidates, class_scores[:, None] * proposals.objectness, -np.inf)


@SELECTOR_REGISTRY.register()
class SampledObjectness(BestObjectness):
    """One of the proposals that contain the point, drawn in proportion to objectness (WISE, section
    3.2).

    Drawn once, seeded by ``seed`` and the image, so that labels do not depend on how images are
    shared out to processes. For a fresh draw at every epoch of the second stage, as the paper
    has it, export candidates (``PSEUDO_LABELS.MAX_CANDIDATES``) and let the second stage draw
    (``DATASETS.PSEUDO.SAMPLE_CANDIDATES``).

    Args:
        seed: Of the sampling, at least 0.
        kwargs: See :class:`BestObjectness`.
    """

    @configurable
    def __init__(self, *, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``SEED`` too."""
        return {**super().from_config(cfg), "seed": max(cfg.SEED, 0)}

    def _choose(self, row: np.ndarray, x: dict, index: int) -> int:
        (candidates,) = (row > -np.inf).nonzero()
        image_seed = zlib.crc32(str(x["image_id"]).encode())
        rng = np.random.default_rng((self.seed, image_seed, index))
        return int(rng.choice(candidates, p=_weights(row[candidates])))


@SELECTOR_REGISTRY.register()
class PRMScore(Selector):
    """PRM's instance mask retrieval (Zhou et al., CVPR 2018, section 3.3, equation 5).

    A proposal S scores ``balance * sum(R S) + sum(R contour(S)) - penalty * sum(Q S)`` with the
    response map R of the object, the background Q of the class response map and the morphological
    gradient as contour; the score is divided by ``balance + 1``, its upper bound.

    Args:
        balance_factor: Weight of the response inside the proposal.
        penalty_factor: Weight of the background inside the proposal.
        bg_threshold_factor: Q is where the class response, counted from its minimum, is below this
            factor times its mean.
        contour_width: Side of the structuring element, in pixels of the response maps.
    """

    @configurable
    def __init__(
        self,
        *,
        balance_factor: float = 0.8,
        penalty_factor: float = 1e-5,
        bg_threshold_factor: float = 0.95,
        contour_width: int = 5,
    ):
        self.balance_factor = balance_factor
        self.penalty_factor = penalty_factor
        self.bg_threshold_factor = bg_threshold_factor
        self.contour_width = contour_width

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.PRM``."""
        prm = cfg.PSEUDO_LABELS.PRM
        return {
            "balance_factor": prm.BALANCE_FACTOR,
            "penalty_factor": prm.PENALTY_FACTOR,
            "bg_threshold_factor": prm.BG_THRESHOLD_FACTOR,
            "contour_width": prm.CONTOUR_WIDTH,
        }

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        scores = self.retrieval_scores(
            cues.response_maps.cpu(),
            cues.class_response_maps[cues.class_ids].cpu(),
            torch.from_numpy(proposals.decode()),
        )
        return (scores / (self.balance_factor + 1)).numpy().astype(np.float64)

    def retrieval_scores(
        self, responses: torch.Tensor, class_responses: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Equation 5 for every object and proposal.

        Args:
            responses: (P, h, w) float, response map of each object.
            class_responses: (P, h', w') float, class response map of each object's class.
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


@SELECTOR_REGISTRY.register()
class DiceWithResponse(Selector):
    """The proposal S of greatest Dice coefficient with the object's response map R.

    ``2 sum(R S) / (sum(R) + sum(S))``, R divided by its maximum: the form in which WISE's released
    code (Laradji et al., BMVC 2019) compares predicted masks with proposals. Response maps are
    high on the distinctive part of an object and low on its rest, so that a soft R favours
    proposals of that part; with a low threshold R becomes a mask first.

    Args:
        threshold: R is 1 from this fraction of its maximum, and 0 below; 0: R stays soft.
    """

    @configurable
    def __init__(self, *, threshold: float = 0.0):
        self.threshold = threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.DICE``."""
        return {"threshold": cfg.PSEUDO_LABELS.DICE.THRESHOLD}

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        masks = torch.from_numpy(proposals.decode()).float()
        responses = cues.response_maps.cpu()[:, None]
        responses = F.interpolate(responses, masks.shape[1:], mode="bilinear", align_corners=False)
        responses, masks = responses.flatten(1), masks.flatten(1)
        responses = responses / responses.amax(1, keepdim=True).clamp(min=1e-20)
        if self.threshold > 0:
            responses = (responses >= self.threshold).float()
        overlap = responses @ masks.T
        total = responses.sum(1)[:, None] + masks.sum(1)
        return (2 * overlap / total).numpy().astype(np.float64)
