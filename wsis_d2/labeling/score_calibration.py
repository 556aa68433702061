"""From what is known of a mask to the probability that it is right, learnt from a few true masks.

"Right" is an IoU of at least 0.5 with a true mask of the class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..errors import UserError
from ..files import load_json
from ..structures import mask_iou
from ..structures.masks import RLE

#: What a score is made of, each in [0, 1]; see :func:`wsis_d2.labeling.agreement_features`.
FEATURES = ("rank", "mean agreement", "best agreement", "agreeing sources")

#: A mask is right from this IoU with a true one on.
RIGHT_IOU = 0.5

#: How strongly the offsets of sources and of classes, and the rest, are drawn to 0: what an offset
#: of 1 costs, in nats / 2. A handful of masks says something of the sources, little of the classes.
_SOURCE_PENALTY = 1.0
_CLASS_PENALTY = 3.0
_PENALTY = 0.1

#: Beyond it a probability is 0 or 1 in float64.
_MAX_LOGIT = 700.0


@dataclass(frozen=True)
class ScoreCalibration:
    """Logistic regression: a weight of each feature, an offset of each source and class.

    Attributes:
        intercept: the logit of a mask without anything.
        weights: one per feature of :data:`FEATURES`, at least 0: no agreement lowers a score.
        sources: offsets by name; others have none.
        classes: likewise.
    """

    intercept: float
    weights: Mapping[str, float]
    sources: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self, features: np.ndarray, sources: Sequence[str], classes: Sequence[str]
    ) -> np.ndarray:
        """Probabilities that masks are right.

        Args:
            features: (N, 4).
            sources: names of the N masks' sources.
            classes: names of their classes.

        Returns:
            (N,) float64 in [0, 1].
        """
        logits = np.full(len(features), float(self.intercept))
        for column, name in zip(np.transpose(features), FEATURES):
            logits += self.weights.get(name, 0.0) * column
        logits += [
            self.sources.get(source, 0.0) + self.classes.get(label, 0.0)
            for source, label in zip(sources, classes)
        ]
        return expit(logits)

    def to_json(self) -> dict:
        """What :func:`read_calibration` reads."""
        return asdict(self)


def fit_calibration(
    features: np.ndarray, right: np.ndarray, sources: Sequence[str], classes: Sequence[str]
) -> ScoreCalibration:
    """Fit the calibration to masks of which it is known whether they are right.

    The offsets of sources and classes are drawn to 0, those of classes more: a class with few masks
    keeps to what holds for all.

    Args:
        features: (N, 4), N at least 1.
        right: (N,) bool.
        sources: names of the N masks' sources.
        classes: names of their classes.

    Returns:
        The calibration of highest penalised likelihood.
    """
    source_names, source_index = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    class_names, class_index = np.unique(np.asarray(classes, dtype=str), return_inverse=True)
    x = np.concatenate(
        [
            np.ones((len(features), 1)),
            features,
            np.eye(len(source_names))[source_index],
            np.eye(len(class_names))[class_index],
        ],
        axis=1,
    )
    sizes = [1 + len(FEATURES), len(source_names), len(class_names)]
    penalties = np.repeat([_PENALTY, _SOURCE_PENALTY, _CLASS_PENALTY], sizes)
    right = np.asarray(right, dtype=np.float64)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ w
        value = np.logaddexp(0, logits).sum() - right @ logits + penalties @ w**2 / 2
        return value, x.T @ (expit(logits) - right) + penalties * w

    bounds = [(None, None), *[(0, None)] * len(FEATURES), *[(None, None)] * sum(sizes[1:])]
    result = minimize(loss, np.zeros(sum(sizes)), jac=True, method="L-BFGS-B", bounds=bounds)
    intercept, *weights = (round(float(w), 6) for w in result.x)
    values = iter(weights)
    return ScoreCalibration(
        intercept,
        {name: next(values) for name in FEATURES},
        {str(name): next(values) for name in source_names},
        {str(name): next(values) for name in class_names},
    )


def read_calibration(path: str | os.PathLike) -> ScoreCalibration:
    """Read a calibration that was saved as JSON.

    Raises:
        UserError: the file is missing or is none.
    """
    content = load_json(path)
    parts = ("weights", "sources", "classes")
    if isinstance(content, dict) and all(isinstance(content.get(p), dict) for p in parts):
        numbers = [content.get("intercept"), *(v for p in parts for v in content[p].values())]
        if all(map(_is_logit, numbers)) and all(w >= 0 for w in content["weights"].values()):
            return ScoreCalibration(content["intercept"], *(content[p] for p in parts))
    raise UserError(
        f"'{path}' is no calibration of scores: name the file ..._calibration.json that was "
        "written beside combined labels"
    )


def _is_logit(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_LOGIT
    )


def are_right(
    masks: Sequence[RLE],
    class_ids: Sequence[int],
    true_masks: Sequence[RLE],
    true_class_ids: Sequence[int],
) -> np.ndarray:
    """Which masks of an image have an IoU of at least 0.5 with a true mask of their class.

    Args:
        masks: N masks.
        class_ids: their classes.
        true_masks: M masks of the same size.
        true_class_ids: their classes.

    Returns:
        (N,) bool.
    """
    same = np.asarray(class_ids)[:, None] == np.asarray(true_class_ids)
    return ((mask_iou(masks, true_masks) >= RIGHT_IOU) & same).any(1)
