"""Errors of counts, by hand."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsis_d2.evaluation import CountEvaluator, count_errors


def test_by_hand():
    true = [[1, 0, 0], [3, 0, 2], [0, 0, 1]]
    predicted = [[2, 0, 0], [3, 1, 0], [1, 0, 1]]
    assert count_errors(predicted, true) == pytest.approx(
        {
            "mRMSE": (math.sqrt(2 / 3) + math.sqrt(1 / 3) + math.sqrt(4 / 3)) / 3,
            "m-relRMSE": (math.sqrt((1 / 2 + 1) / 3) + math.sqrt(1 / 3) + math.sqrt((4 / 3) / 3))
            / 3,
            # Images 1 and 2 show the first class, none the second, 2 and 3 the third.
            "mRMSE-nz": (math.sqrt(1 / 2) + math.sqrt(4 / 2)) / 2,
            "m-relRMSE-nz": (math.sqrt((1 / 2) / 2) + math.sqrt((4 / 3) / 2)) / 2,
        }
    )


def test_nothing_to_count():
    errors = count_errors(np.ones((2, 3)), np.zeros((2, 3)))
    assert (errors["mRMSE"], errors["m-relRMSE"]) == (1, 1)
    assert np.isnan([errors["mRMSE-nz"], errors["m-relRMSE-nz"]]).all()
    with pytest.raises(ValueError, match=r"\(2, 3\) \(predicted\) and \(3, 2\)"):
        count_errors(np.zeros((2, 3)), np.zeros((3, 2)))


counts = hnp.arrays(np.int64, (4, 3), elements=st.integers(0, 9))


@given(predicted=counts, true=counts, order=st.permutations(range(4)))
def test_properties(predicted, true, order):
    errors = count_errors(predicted, true)
    assert count_errors(predicted[order], true[order]) == pytest.approx(errors, nan_ok=True)
    assert errors["m-relRMSE"] <= errors["mRMSE"] + 1e-12
    assert (errors["mRMSE"] == 0) == (predicted == true).all()
    # One object too many everywhere is an error of one object.
    assert count_errors(true + 1, true)["mRMSE"] == pytest.approx(1)


@pytest.fixture
def dataset():
    DatasetCatalog.register(
        "counted",
        lambda: [
            {"image_id": 1, "image_labels": [0, 2], "image_counts": [7, 1]},
            {"image_id": 2, "image_labels": [1], "image_counts": [2]},
            {"image_id": 3, "image_labels": [1]},
            {"image_id": 4, "image_labels": [0, 1], "image_counts": [2, 0]},
        ],
    )
    yield "counted"
    DatasetCatalog.remove("counted")


def test_evaluator(dataset):
    evaluator = CountEvaluator(dataset, distributed=False)
    predictions = {1: [5.6, 0.4, 0.6], 2: [0, 2.4, 0], 3: [9, 9, 9], 4: [9, 9, 9]}
    # What the input says is cut off at 5, the truth is not.
    for image_id, predicted in predictions.items():
        inputs = [{"image_id": image_id, "image_counts": torch.tensor([5])}]
        evaluator.process(inputs, [{"image_counts": torch.tensor(predicted)}])
    expected = count_errors([[6, 0, 1], [0, 2, 0]], [[7, 0, 1], [0, 2, 0]])
    assert evaluator.evaluate() == {"counts": pytest.approx(expected)}
    evaluator.reset()
    assert evaluator.evaluate() == {}
