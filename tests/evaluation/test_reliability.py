"""Scores against the share of right ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsis_d2.evaluation import reliability_curve


def test_a_curve_by_hand():
    curve = reliability_curve([0.0, 0.1, 0.5, 1.0], [False, True, True, True], num_bins=2)
    low, high = curve["bins"]
    assert low == {"from": 0, "to": 50, "count": 2, "score": pytest.approx(5), "right": 50}
    assert high == {"from": 50, "to": 100, "count": 2, "score": 75, "right": 100}
    assert curve["ECE"] == pytest.approx((2 * 45 + 2 * 25) / 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 10))
def test_the_error_against_a_loop(pairs, num_bins):
    curve = reliability_curve(*zip(*pairs), num_bins)
    edges = np.linspace(0, 1, num_bins + 1)
    error = 0.0
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:])):
        last = number == num_bins - 1
        inside = [(s, r) for s, r in pairs if low <= s and (s < high or last)]
        assert curve["bins"][number]["count"] == len(inside)
        error += abs(sum(s - r for s, r in inside))
    assert curve["ECE"] == pytest.approx(100 * error / len(pairs), abs=1e-6)


def test_nothing_is_known_of_no_scores():
    curve = reliability_curve([], [])
    assert np.isnan(curve["ECE"])
    assert [b["count"] for b in curve["bins"]] == [0] * 10
    assert all(np.isnan(b["score"]) and np.isnan(b["right"]) for b in curve["bins"])
