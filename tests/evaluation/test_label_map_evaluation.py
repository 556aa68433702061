"""mIoU and seed metrics against plain loops and Detectron2's evaluator."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsis_d2.evaluation import (
    confusion_matrix,
    evaluate_label_maps,
    label_ious,
    mean_iou,
    seed_metrics,
    threshold_confusion_matrices,
)

LABELS = 4


def _maps(rng, unknown=True):
    values = [*range(LABELS), 255]
    truth = rng.choice(values, (9, 11), p=[0.4, 0.25, 0.25, 0.0, 0.1]).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(LABELS, truth.shape))
    prediction[prediction == 255] = 0
    if unknown:
        prediction[rng.random(truth.shape) < 0.2] = 255
    return prediction.astype(np.uint8), truth


def _iou_by_sets(pairs, label, ignore_unknown):
    """Intersection and union as sets of pixels of all images."""
    predicted, true = set(), set()
    for image, (prediction, truth) in enumerate(pairs):
        for place in np.ndindex(*truth.shape):
            if truth[place] == 255 or (ignore_unknown and prediction[place] == 255):
                continue
            if prediction[place] == label:
                predicted.add((image, place))
            if truth[place] == label:
                true.add((image, place))
    union = predicted | true
    return len(predicted & true) / len(union) if union else float("nan")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from(["wrong", "ignored"]))
def test_ious_against_sets(seed, num_images, unknown):
    rng = np.random.default_rng(seed)
    pairs = [_maps(rng) for _ in range(num_images)]
    matrix = sum(confusion_matrix(*pair, LABELS) for pair in pairs)
    expected = [_iou_by_sets(pairs, label, unknown == "ignored") for label in range(LABELS)]
    assert np.allclose(label_ious(matrix, unknown), expected, equal_nan=True)
    assert mean_iou(matrix, unknown) == pytest.approx(100 * np.nanmean(expected))
    metrics = evaluate_label_maps(iter(pairs), ["a", "b", "c"], unknown)
    assert list(metrics) == ["mIoU", "IoU-background", "IoU-a", "IoU-b", "IoU-c"]
    assert np.allclose(list(metrics.values())[1:], 100 * np.array(expected), equal_nan=True)


def test_the_same_as_detectron2(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [_maps(rng, unknown=False) for _ in range(5)]
    # Detectron2's versions differ in what a class counts that is predicted, but absent.
    pairs = [(np.where(prediction == 3, 0, prediction), truth) for prediction, truth in pairs]
    dicts = []
    for i, (_, truth) in enumerate(pairs):
        path = tmp_path / f"{i}.png"
        Image.fromarray(truth).save(path)
        dicts.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
    name = "label_maps_for_evaluation"
    DatasetCatalog.register(name, lambda: dicts)
    try:
        classes = ["background", "a", "b", "c"]
        MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=255)
        evaluator = SemSegEvaluator(name, distributed=False)
        evaluator.reset()
        for d, (prediction, _) in zip(dicts, pairs):
            logits = torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), LABELS)
            evaluator.process([d], [{"sem_seg": logits.permute(2, 0, 1).float()}])
        expected = evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    ours = evaluate_label_maps(pairs, classes[1:])
    assert ours["mIoU"] == pytest.approx(expected["mIoU"])
    for c in classes[:3]:
        assert ours[f"IoU-{c}"] == pytest.approx(expected[f"IoU-{c}"])
    assert np.isnan(ours["IoU-c"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_thresholds_against_argmax(seed, num_classes):
    rng = np.random.default_rng(seed)
    # Few values, so that some of them are thresholds.
    cam = rng.choice([0.0, 0.25, 0.3, 0.5, 0.75, 1.0], (num_classes, 9, 11))
    class_ids = rng.permutation(LABELS - 1)[:num_classes]
    _, truth = _maps(rng)
    thresholds = [0.1, 0.3, 0.5, 2.0]
    matrices = threshold_confusion_matrices(cam, class_ids, truth, thresholds, LABELS)
    labels = np.append(0, class_ids + 1)
    for threshold, matrix in zip(thresholds, matrices):
        scores = np.concatenate([np.full((1, 9, 11), threshold), cam])
        expected = confusion_matrix(labels[scores.argmax(0)], truth, LABELS)
        assert np.array_equal(matrix, expected)


def test_seed_metrics_by_hand():
    truth = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 2, 255]])
    seeds = np.array([[0, 0, 255, 1, 1, 1, 0, 255, 1, 2]])
    metrics = seed_metrics(confusion_matrix(seeds, truth, 3))
    assert metrics == pytest.approx(
        {
            "fg precision": 100 * 2 / 4,
            "bg precision": 100 * 2 / 3,
            "fg recall": 100 * 2 / 5,
            # Background 2/4, class 1 2/5, class 2 0/1.
            "mIoU": 100 * (0.5 + 0.4 + 0) / 3,
            "unknown": 100 * 2 / 9,
        }
    )
    nothing = seed_metrics(np.zeros((3, 4), int))
    assert all(np.isnan(value) for value in nothing.values())


def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match="cannot be compared"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="a predicted label"):
        confusion_matrix(np.full((2, 2), 2), np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match="a true label"):
        confusion_matrix(np.zeros((2, 2)), np.full((2, 2), 2), 2)
    with pytest.raises(ValueError, match="unknown must be"):
        mean_iou(np.zeros((2, 3)), unknown="right")
