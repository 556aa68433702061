"""The masks that several sources give of an image become one set, scored by how far they agree.

A source is a label generator, or a trained model whose predictions are taken for labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..structures import (
    decode_masks,
    encode_mask,
    mask_area,
    mask_areas,
    mask_containment,
    mask_iou,
)
from ..structures.masks import RLE
from .score_calibration import FEATURES, ScoreCalibration


@dataclass(frozen=True)
class Candidates:
    """Masks of one image. They lie in an order of their own, whatever the order of the sources.

    Attributes:
        masks: N masks of one size.
        class_ids: (N,) int64.
        sources: (N,) int64, the number of the source that gave each.
        ranks: (N,) float64 in [0, 1], how high the score of each is among those that its source
            gave to its class: 0.5 is the middle.
    """

    masks: Sequence[RLE]
    class_ids: np.ndarray
    sources: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(
        cls, masks: Sequence[RLE], class_ids: Sequence[int], sources: Sequence[int], ranks: Sequence
    ) -> Candidates:
        """Bring masks in any order into the one that does not depend on the sources' numbers."""
        unordered = cls(
            list(masks),
            np.asarray(class_ids, np.int64),
            np.asarray(sources, np.int64),
            np.asarray(ranks, np.float64),
        )
        keys = zip(unordered.class_ids, (mask["counts"] for mask in masks), unordered.ranks)
        order = sorted(enumerate(keys), key=lambda item: item[1])
        return unordered[np.array([i for i, _ in order], dtype=np.int64)]

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: np.ndarray) -> Candidates:
        """Those of an index array or of a (N,) bool."""
        positions = np.arange(len(self))[index]
        return Candidates(
            [self.masks[i] for i in positions],
            self.class_ids[positions],
            self.sources[positions],
            self.ranks[positions],
        )


@dataclass(frozen=True)
class CombinedMask:
    """A pseudo label.

    Attributes:
        mask: the mask.
        class_id: its class.
        score: in [0, 1].
    """

    mask: RLE
    class_id: int
    score: float


def relative_ranks(scores: np.ndarray | float, all_scores: np.ndarray) -> np.ndarray:
    """How high scores are among others, with which sources of any scale compare.

    Args:
        scores: (N,), or one.
        all_scores: (M,) ascending, M at least 1 where N is.

    Returns:
        float64 in [0, 1], in the same form: the share of ``all_scores`` below, equal ones counted
        half.
    """
    below = np.searchsorted(all_scores, scores, "left")
    not_above = np.searchsorted(all_scores, scores, "right")
    return (below + not_above) / (2 * max(len(all_scores), 1))


def class_overlap(candidates: Candidates) -> np.ndarray:
    """(N, N) float64: the IoU of masks of one class, 0 for those of different classes."""
    same = candidates.class_ids[:, None] == candidates.class_ids
    return np.where(same, mask_iou(candidates.masks, candidates.masks), 0.0)


def agreement_features(
    candidates: Candidates, overlap: np.ndarray, num_sources: int, iou_threshold: float
) -> np.ndarray:
    """What says how good a mask is: see :data:`FEATURES`.

    Args:
        candidates: N masks of an image.
        overlap: (N, N), by :func:`class_overlap`.
        num_sources: S, also those that gave no mask here.
        iou_threshold: from this IoU on a source agrees.

    Returns:
        (N, 4) float64 in [0, 1]: the rank; mean and maximum, over the S - 1 other sources, of the
        best IoU with a mask of theirs; the share of them that agree. The last three are 0 where
        there is no other source.
    """
    features = np.zeros((len(candidates), len(FEATURES)))
    features[:, 0] = candidates.ranks
    if num_sources == 1 or not len(candidates):
        return features
    best = np.zeros((len(candidates), num_sources))
    for source in range(num_sources):
        of_source = candidates.sources == source
        best[:, source] = overlap[:, of_source].max(1, initial=0)
    best[np.arange(len(candidates)), candidates.sources] = -1.0
    # Sorted: sums of floats depend on the order.
    others = np.sort(best, axis=1)[:, 1:]
    features[:, 1] = others.mean(1)
    features[:, 2] = others[:, -1]
    features[:, 3] = (others >= iou_threshold).mean(1)
    return features


def agreement_score(features: np.ndarray, num_sources: int) -> np.ndarray:
    """The score where no true mask is known: (rank + sum of the others' best IoUs) / (S + 1).

    So each other source is a vote, which counts as much as it overlaps, and the source's own rank
    is less than one. A mask of one source alone gets at most a half; S that give the same masks,
    (S - 1 + rank) / (S + 1), which grows with S.

    Args:
        features: (N, 4), by :func:`agreement_features`.
        num_sources: S.

    Returns:
        (N,) float64 in [0, 1).
    """
    return (features[:, 0] + (num_sources - 1) * features[:, 1]) / (num_sources + 1)


def cluster_masks(
    overlap: np.ndarray, scores: np.ndarray, iou_threshold: float
) -> list[np.ndarray]:
    """Masks of one object: greedily, the best one left takes all that overlap it.

    Args:
        overlap: (N, N), by :func:`class_overlap`.
        scores: (N,). Of equal ones the first is better.
        iou_threshold: in (0, 1].

    Returns:
        Index arrays, each with its best mask first, clusters best first.
    """
    order = np.argsort(-scores, kind="stable")
    free = np.ones(len(order), dtype=bool)
    clusters = []
    for leader in order:
        if not free[leader]:
            continue
        taken = free & (overlap[leader] >= iou_threshold)
        taken[leader] = False
        members = order[taken[order]]
        clusters.append(np.concatenate([[leader], members]))
        free[clusters[-1]] = False
    return clusters


def vote_mask(masks: Sequence[RLE], weights: np.ndarray) -> RLE:
    """The pixels that masks with more than half of the weight have.

    Args:
        masks: N masks of one size, at least one, the best first.
        weights: (N,) at least 0.

    Returns:
        The mask; the first one where no pixel has so much.
    """
    # The first mask's share alone decides where it has more than half.
    if weights[0] > weights[1:].sum():
        return masks[0]
    bitmaps = decode_masks(masks, tuple(masks[0]["size"]))
    votes = np.tensordot(weights, bitmaps, axes=1)
    voted = encode_mask(votes > weights.sum() / 2)
    return voted if mask_area(voted) else masks[0]


def find_parts(
    candidates: Candidates,
    overlap: np.ndarray,
    iou_threshold: float,
    containment: float = 0.8,
    min_parts: int = 2,
) -> np.ndarray:
    """Masks that are parts of another one, as that one shows.

    A mask in which several masks of its class lie is taken for a whole object and these for its
    parts (the idea of CIM, CVPR 2023, and BESTIE, CVPR 2022).

    Args:
        candidates: N masks of an image.
        overlap: (N, N), by :func:`class_overlap`.
        iou_threshold: masks of at least this IoU are the same object's, not a part and a whole.
        containment: a part has at least this share of its area in the whole, and is smaller.
        min_parts: how many a whole has at least.

    Returns:
        (N,) bool.
    """
    if not len(candidates):
        return np.zeros(0, dtype=bool)
    areas = mask_areas(candidates.masks)
    lies_in = mask_containment(candidates.masks, candidates.masks) >= containment
    lies_in &= (areas[:, None] < areas) & (overlap < iou_threshold)
    lies_in &= candidates.class_ids[:, None] == candidates.class_ids
    return lies_in[:, lies_in.sum(0) >= min_parts].any(1)


@dataclass(frozen=True)
class MaskCombiner:
    """From the masks of several sources to one set.

    Attributes:
        sources: their names, for the calibration; their number counts.
        classes: the names of the classes.
        iou_threshold: masks of one class with at least this IoU are of one object.
        vote: an object's mask is the vote of its masks, one per source, weighed by their scores
            (:func:`vote_mask`), instead of the best one.
        calibration: gives the scores; None: :func:`agreement_score` does.
        min_score: objects below it are dropped.
        mine_wholes: parts of whole objects are dropped first (:func:`find_parts`).
        containment: see there.
    """

    sources: Sequence[str]
    classes: Sequence[str]
    iou_threshold: float = 0.5
    vote: bool = False
    calibration: ScoreCalibration | None = None
    min_score: float = 0.0
    mine_wholes: bool = False
    containment: float = 0.8

    def features(self, candidates: Candidates, overlap: np.ndarray) -> np.ndarray:
        """See :func:`agreement_features`."""
        return agreement_features(candidates, overlap, len(self.sources), self.iou_threshold)

    def combine(self, candidates: Candidates) -> list[CombinedMask]:
        """The objects of an image, best first.

        Args:
            candidates: the masks of all sources.
        """
        overlap = class_overlap(candidates)
        scores = self._scores(candidates, self.features(candidates, overlap))
        if self.mine_wholes:
            parts = find_parts(candidates, overlap, self.iou_threshold, self.containment)
            candidates, scores = candidates[~parts], scores[~parts]
            overlap = overlap[~parts][:, ~parts]
        return [
            CombinedMask(
                self._mask(candidates, scores, members),
                int(candidates.class_ids[members[0]]),
                float(scores[members[0]]),
            )
            for members in cluster_masks(overlap, scores, self.iou_threshold)
            if scores[members[0]] >= self.min_score
        ]

    def complete(
        self, combined: Sequence[CombinedMask], predictions: Candidates, labels: Collection[int]
    ) -> list[CombinedMask]:
        """Add to the objects of an image the best prediction of each labelled class without any.

        Args:
            combined: the objects.
            predictions: of a trained model; the number of their source need not be one of
                ``sources``.
            labels: the classes that are in the image.

        Returns:
            The objects, then the added ones, scored as masks that no other source agrees with.
        """
        added = []
        for label in sorted(set(labels) - {mask.class_id for mask in combined}):
            of_class = predictions[predictions.class_ids == label]
            if len(of_class):
                best = of_class[[int(of_class.ranks.argmax())]]
                features = np.zeros((1, len(FEATURES)))
                features[:, 0] = best.ranks
                (score,) = self._scores(best, features)
                added.append(CombinedMask(best.masks[0], label, float(score)))
        return [*combined, *added]

    def _scores(self, candidates: Candidates, features: np.ndarray) -> np.ndarray:
        if self.calibration is None:
            return agreement_score(features, len(self.sources))
        # Predictions that only complete have a name that the calibration does not know.
        names = [*self.sources, ""]
        return self.calibration(
            features,
            [names[min(i, len(self.sources))] for i in candidates.sources],
            [self.classes[i] for i in candidates.class_ids],
        )

    def _mask(self, candidates: Candidates, scores: np.ndarray, members: np.ndarray) -> RLE:
        if not self.vote:
            return candidates.masks[members[0]]
        # Of a source that gave several, the best.
        _, first = np.unique(candidates.sources[members], return_index=True)
        voters = members[np.sort(first)]
        return vote_mask([candidates.masks[i] for i in voters], scores[voters])
