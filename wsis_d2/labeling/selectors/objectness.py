"""WISE's selectors: the proposal of best objectness at a point, or one drawn by objectness."""

from __future__ import annotations

import zlib

import numpy as np
from detectron2.config import CfgNode, configurable

from ...structures import MaskProposals
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY, Selector, candidate_weights


@SELECTOR_REGISTRY.register()
class BestObjectness(Selector):
    """The proposal of highest objectness that contains the point (WISE: Laradji et al., BMVC 2019,
    section 3.2).

    The score, which the paper leaves open, is the objectness times the certainty of the class.

    Args:
        min_objectness: proposals below it are not considered.
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
        seed: of the sampling, at least 0.
        kwargs: see :class:`BestObjectness`.
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
        return int(rng.choice(candidates, p=candidate_weights(row[candidates])))
