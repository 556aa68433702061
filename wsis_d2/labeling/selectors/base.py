"""Which proposal is the object? What a selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ...errors import look_up
from ...structures import MaskProposals
from ..localizers import LocationCues

SELECTOR_REGISTRY = Registry("SELECTOR")
SELECTOR_REGISTRY.__doc__ = """
Selectors by their name in ``PSEUDO_LABELS.SELECTOR``: subclasses of
:class:`wsis_d2.labeling.Selector` that are built from a config and choose a mask proposal for each
located object.
"""


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
            x: the model input dict.

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
            max_candidates: at most this many per object.

        Returns:
            P pairs of (N,) int64 indices, best first, and (N,) float64 weights that sum to 1;
            N = 0 where the object has no proposal.
        """
        pairs = []
        for row in self._match(cues, proposals):
            index = np.argsort(-row, kind="stable")[:max_candidates]
            index = index[row[index] > -np.inf]
            pairs.append((index, candidate_weights(row[index])))
        return pairs

    def _match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        if not len(cues) or not len(proposals):
            return np.zeros((len(cues), len(proposals)))
        return self.match(cues, proposals)

    def _choose(self, row: np.ndarray, x: dict, index: int) -> int:
        """The proposal for the object ``index`` of image ``x``; ``row`` has at least one."""
        return int(row.argmax())


def candidate_weights(matches: np.ndarray) -> np.ndarray:
    """(N,) probabilities in proportion to the matches; equal ones where none is positive."""
    weights = matches.clip(min=0)
    if weights.sum() <= 0:
        weights = np.ones(len(matches))
    return weights / weights.sum() if len(weights) else weights


def build_selector(cfg: CfgNode) -> Selector:
    """The selector ``cfg.PSEUDO_LABELS.SELECTOR``.

    Raises:
        UserError: no selector of that name.
    """
    return look_up(SELECTOR_REGISTRY, cfg.PSEUDO_LABELS.SELECTOR, "PSEUDO_LABELS.SELECTOR")(cfg)
