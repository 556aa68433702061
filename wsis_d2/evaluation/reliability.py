"""Whether scores are the probabilities that they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def reliability_curve(
    scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, num_bins: int = 10
) -> dict[str, Any]:
    """Compare scores with the share of those that are right, in bins of equal width.

    Args:
        scores: (N,) in [0, 1].
        right: (N,) bool.
        num_bins: number of bins; the last one has both of its ends.

    Returns:
        ``{"ECE": float, "bins": [{"from", "to", "count", "score", "right"}]}`` in percent but for
        the count: the mean score and the share of right ones in each bin, nan in an empty one. The
        expected calibration error is the mean over all scores of the distance between the two
        (Guo et al., ICML 2017); nan where N is 0.
    """
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    edges = np.linspace(0, 1, num_bins + 1)
    index = np.clip(np.digitize(scores, edges) - 1, 0, num_bins - 1)
    bins, error = [], 0.0
    for number in range(num_bins):
        inside = index == number
        count = int(inside.sum())
        score, share = (
            100 * float(values[inside].mean()) if count else float("nan")
            for values in (scores, right)
        )
        error += count * abs(score - share) if count else 0.0
        bins.append(
            {
                "from": 100 * float(edges[number]),
                "to": 100 * float(edges[number + 1]),
                "count": count,
                "score": score,
                "right": share,
            }
        )
    return {"ECE": error / len(scores) if len(scores) else float("nan"), "bins": bins}
