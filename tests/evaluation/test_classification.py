"""Multi-label average precision against its definition."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsis_d2.errors import UserError
from wsis_d2.evaluation import MultiLabelEvaluator, multilabel_average_precision


def naive_average_precision(scores, targets):
    """Sum over thresholds, falling, of the rise of recall times the precision."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        retrieved = [t for s, t in zip(scores, targets) if s >= threshold]
        recall = sum(retrieved) / sum(targets)
        area += (recall - recall_before) * sum(retrieved) / len(retrieved)
        recall_before = recall
    return area


def test_hand_computed():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    targets = np.array([[1], [0], [1], [0]], dtype=bool)
    assert multilabel_average_precision(scores, targets) == pytest.approx([(1 + 2 / 3) / 2])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.data())
def test_agrees_with_the_definition(n, c, data):
    # Few different scores, so that many are equal.
    scores = data.draw(npst.arrays(np.float32, (n, c), elements=st.sampled_from([0, 0.25, 0.5, 1])))
    targets = data.draw(npst.arrays(bool, (n, c)))
    result = multilabel_average_precision(scores, targets)
    order = np.random.default_rng(n).permutation(n)
    np.testing.assert_array_equal(
        result, multilabel_average_precision(scores[order], targets[order])
    )
    for k in range(c):
        if targets[:, k].any():
            want = naive_average_precision(scores[:, k].tolist(), targets[:, k].tolist())
            assert result[k] == pytest.approx(want)
        else:
            assert math.isnan(result[k])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        multilabel_average_precision(np.zeros((3, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        multilabel_average_precision(np.zeros(3), np.zeros(3))


def test_evaluator():
    name = "test_classification_evaluator"
    MetadataCatalog.get(name).thing_classes = ["cat", "dog", "cow"]
    evaluator = MultiLabelEvaluator(name)
    scores = torch.tensor([[0.9, 0.6, 0.1], [0.8, 0.7, 0.2], [0.3, 0.5, 0.1]])
    labels = [torch.tensor([0]), [1], torch.tensor([0, 1])]
    for s, label in zip(scores, labels):
        evaluator.process([{"image_labels": label}], [{"image_scores": s}])
    result = evaluator.evaluate()["classification"]
    assert result["AP-cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert result["AP-dog"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert math.isnan(result["AP-cow"])
    assert result["mAP"] == pytest.approx((result["AP-cat"] + result["AP-dog"]) / 2)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_of_a_classifier_that_diverged_are_refused(score):
    evaluator = MultiLabelEvaluator("test_classification_of_a_diverged_classifier")
    inputs = [{"image_labels": [0], "file_name": "cat.jpg"}]
    with pytest.raises(UserError, match="scores of image 'cat.jpg' are no finite numbers"):
        evaluator.process(inputs, [{"image_scores": torch.tensor([0.5, score])}])
