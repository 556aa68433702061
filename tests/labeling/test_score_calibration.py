"""Scores that are probabilities: a fit against a finer optimiser, its limits, its file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from wsis_d2.errors import UserError
from wsis_d2.labeling import ScoreCalibration, are_right, fit_calibration, read_calibration
from wsis_d2.labeling.score_calibration import FEATURES
from wsis_d2.structures import encode_mask


def draw(seed, count):
    """Masks whose probability to be right follows a logistic law."""
    rng = np.random.default_rng(seed)
    features = rng.random((count, len(FEATURES)))
    sources = rng.choice(["IRNet", "WISE"], count)
    classes = rng.choice(["cat", "dog", "cow"], count)
    logits = -2 + features @ [1.0, 2.0, 0.0, 0.5] + np.where(sources == "WISE", -1.0, 0.0)
    probabilities = 1 / (1 + np.exp(-logits))
    return features, rng.random(count) < probabilities, sources, classes, probabilities


def test_many_masks_give_the_law_that_they_follow():
    *known, probabilities = draw(0, 20_000)
    features, _, sources, classes = known
    found = fit_calibration(*known)(features, sources, classes)
    assert np.abs(found - probabilities).max() < 0.05


def test_the_fit_is_the_minimum_of_the_penalised_likelihood():
    features, right, sources, classes, _ = draw(1, 60)
    names = ["IRNet", "WISE"], ["cat", "cow", "dog"]

    def loss(w):  # in plain words, and without a gradient
        total = 0.1 * (w[:5] ** 2).sum() + (w[5:7] ** 2).sum() + 3 * (w[7:] ** 2).sum()
        total /= 2
        for x, y, source, label in zip(features, right, sources, classes):
            logit = w[0] + w[1:5] @ x
            logit += w[5 + names[0].index(source)] + w[7 + names[1].index(label)]
            total += np.log1p(np.exp(logit)) - y * logit
        return total

    bounds = [(None, None)] + [(0, None)] * 4 + [(None, None)] * 5
    best = minimize(loss, np.zeros(10), bounds=bounds, tol=1e-10)
    found = fit_calibration(features, right, sources, classes)
    weights = [found.weights[name] for name in FEATURES]
    offsets = [found.sources[n] for n in names[0]] + [found.classes[n] for n in names[1]]
    assert loss(np.array([found.intercept, *weights, *offsets])) <= best.fun + 1e-4


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_handful_of_masks_gives_probabilities_that_agreement_never_lowers(seed, count):
    features, right, sources, classes, _ = draw(seed, count)
    calibration = fit_calibration(features, right, sources, classes)
    scores = calibration(features, sources, classes)
    assert ((scores > 0) & (scores < 1)).all()
    more = calibration(np.minimum(features + 0.1, 1), sources, classes)
    assert (more >= scores).all()


@pytest.mark.parametrize("outcome", [False, True])
def test_masks_that_are_all_right_or_all_wrong(outcome):
    features, _, sources, classes, _ = draw(2, 50)
    calibration = fit_calibration(features, np.full(50, outcome), sources, classes)
    scores = calibration(features, sources, classes)
    assert (np.abs(scores - outcome) < 0.2).all()
    assert ((scores > 0) & (scores < 1)).all()


def test_the_order_of_masks_does_not_matter():
    features, right, sources, classes, _ = draw(3, 200)
    order = np.random.default_rng(0).permutation(200)
    first = fit_calibration(features, right, sources, classes)
    second = fit_calibration(features[order], right[order], sources[order], classes[order])
    np.testing.assert_allclose(
        first(features, sources, classes), second(features, sources, classes), atol=1e-3
    )


def test_unknown_sources_and_classes_have_no_offset():
    calibration = ScoreCalibration(0.0, {"rank": 2.0}, {"WISE": 1.0}, {"cat": -3.0})
    features = np.zeros((3, len(FEATURES)))
    features[2, 0] = 1.0
    scores = calibration(features, ["WISE", "new", "new"], ["cat", "new", "new"])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([2.0, 0.0, -2.0])))


def test_a_saved_calibration_is_read_back(tmp_path):
    calibration = fit_calibration(*draw(4, 30)[:4])
    (tmp_path / "c.json").write_text(json.dumps(calibration.to_json()))
    assert read_calibration(tmp_path / "c.json") == calibration


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"intercept": 0, "weights": {}, "sources": {}},
        {"intercept": "0", "weights": {}, "sources": {}, "classes": {}},
        {"intercept": float("nan"), "weights": {}, "sources": {}, "classes": {}},
        {"intercept": True, "weights": {}, "sources": {}, "classes": {}},
        {"intercept": 0, "weights": {"rank": -1}, "sources": {}, "classes": {}},
        {"intercept": 0, "weights": {}, "sources": {"a": 1e999}, "classes": {}},
        {"intercept": 0, "weights": {}, "sources": {}, "classes": {"a": [1]}},
    ],
)
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no calibration of scores"):
        read_calibration(tmp_path / "c.json")


def test_right_is_an_iou_of_a_half_with_a_true_mask_of_the_class():
    bitmaps = np.zeros((4, 4, 8), dtype=bool)
    for mask, width in zip(bitmaps, (8, 4, 3, 4)):
        mask[:, :width] = True
    masks = [encode_mask(mask) for mask in bitmaps]
    assert are_right(masks, [0, 0, 0, 1], masks[:1], [0]).tolist() == [True, True, False, False]
    assert are_right(masks, [0] * 4, [], []).tolist() == [False] * 4
    assert are_right([], [], masks, [0] * 4).tolist() == []
