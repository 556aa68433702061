"""The dense CRF against mean-field inference with all pairs of pixels written out."""

import sys

import numpy as np
import pytest
import torch

from wsis_d2.layers import CRFSettings, dense_crf_from_labels, dense_crf_from_scores
from wsis_d2.layers.dense_crf import infer_by_library, infer_by_tensors

SETTINGS = CRFSettings(num_iters=5, bilateral_sxy=6.0, bilateral_srgb=20.0, bilateral_compat=4.0)


def _two_halves(height=12, width=16):
    """An image that is dark on the left and bright on the right of its middle."""
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, width // 2 :] = 200
    return image + np.random.default_rng(0).integers(0, 6, image.shape, np.uint8)


def _gaussian(features):
    """(P, P) kernel of features (P, F), normalised symmetrically as the library does."""
    kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
    scale = 1 / np.sqrt(kernel.sum(1))
    return scale[:, None] * kernel * scale[None]


def _softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def _mean_field(image, probabilities, settings):
    """Kraehenbuehl and Koltun's algorithm 1 with a Potts model, by dense matrices."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    places = np.stack([xs, ys], -1).reshape(-1, 2).astype(float)
    colors = image.reshape(-1, 3).astype(float)
    smoothness = _gaussian(places / settings.gaussian_sxy)
    appearance = _gaussian(
        np.hstack([places / settings.bilateral_sxy, colors / settings.bilateral_srgb])
    )
    kernel = settings.gaussian_compat * smoothness + settings.bilateral_compat * appearance
    log_unary = np.log(probabilities.reshape(len(probabilities), -1))
    q = _softmax(log_unary)
    for _ in range(settings.num_iters):
        q = _softmax(log_unary + q @ kernel)
    return q.reshape(probabilities.shape)


def test_scores_against_dense_matrices():
    image = _two_halves()
    scores = np.random.default_rng(1).uniform(0.1, 1, (3, 12, 16)).astype(np.float32)
    refined = dense_crf_from_scores(image, scores, SETTINGS)
    expected = _mean_field(image, scores, SETTINGS)
    assert refined.dtype == np.float32
    assert np.allclose(refined.sum(0), 1, atol=1e-5)
    # The library interpolates its kernels on a lattice.
    assert np.abs(refined - expected).mean() < 0.03
    assert (refined.argmax(0) == expected.argmax(0)).mean() > 0.95
    # ... which the bare scores are far from.
    assert (scores.argmax(0) == expected.argmax(0)).mean() < 0.8


def test_labels_are_scores_of_their_certainty():
    image = _two_halves()
    labels = np.random.default_rng(2).integers(0, 3, (12, 16))
    scores = np.where(np.arange(3)[:, None, None] == labels, 0.7, 0.15)
    expected = dense_crf_from_scores(image, scores, SETTINGS).argmax(0)
    assert np.array_equal(dense_crf_from_labels(image, labels, 3, SETTINGS), expected)


def test_labels_move_to_the_edge():
    labels = np.zeros((12, 16), np.int64)
    labels[:, 10:] = 1
    refined = dense_crf_from_labels(_two_halves(), labels, 2)
    assert (refined[:, :8] == 0).all()
    assert (refined[:, 8:] == 1).all()


def test_types_follow_the_input():
    image, labels = _two_halves(), np.zeros((12, 16), np.uint8)
    labels[:, 8:] = 1
    array = dense_crf_from_labels(image, labels, 2)
    tensor = dense_crf_from_labels(torch.from_numpy(image), torch.from_numpy(labels), 2)
    assert array.dtype == np.int64
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), array)
    scores = torch.stack([torch.zeros(12, 16), torch.ones(12, 16)])
    assert torch.isfinite(dense_crf_from_scores(image, scores)).all()


def test_one_label_and_read_only_images():
    image = _two_halves()
    image.flags.writeable = False
    assert not dense_crf_from_labels(image, np.zeros((12, 16), int), 1).any()
    assert not dense_crf_from_labels(image[:, ::-1], np.zeros((12, 16), int), 2).any()


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), int), "uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), int), "labels' size"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 2), "labels must be integers"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), -1), "labels must be integers"),
    ],
)
def test_wrong_arguments(image, labels, message):
    with pytest.raises(ValueError, match=message):
        dense_crf_from_labels(image, labels, 2)


@pytest.mark.parametrize("size", [(12, 16), (1, 1), (1, 9), (37, 23)])
@pytest.mark.parametrize("colors", ["halves", "noise", "flat"])
@pytest.mark.parametrize("settings", [SETTINGS, CRFSettings(), CRFSettings(num_iters=0)])
def test_tensor_operations_against_the_library(size, colors, settings):
    rng = np.random.default_rng(3)
    image = {
        "halves": _two_halves(*size),
        "noise": rng.integers(0, 256, (*size, 3), np.uint8),
        "flat": np.full((*size, 3), 255, np.uint8),
    }[colors]
    scores = torch.from_numpy(rng.uniform(0.01, 1, (2, 3, *size)).astype(np.float32))
    expected, found = (
        infer(torch.from_numpy(image), scores.log(), settings)
        for infer in (infer_by_library, infer_by_tensors)
    )
    assert found.dtype == torch.float32
    # A corner of weight 0 up to rounding is a cell for the one and none for the other.
    assert (found - expected).abs().mean() < 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_tensor_operations_are_used_where_the_library_is_missing(monkeypatch):
    image, labels = _two_halves(), np.random.default_rng(2).integers(0, 3, (12, 16))
    expected = dense_crf_from_labels(image, labels, 3, SETTINGS)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError):
        infer_by_library(torch.from_numpy(image), torch.zeros(1, 3, 12, 16), SETTINGS)
    assert np.array_equal(dense_crf_from_labels(image, labels, 3, SETTINGS), expected)


def test_several_maps_of_an_image_are_refined_each_by_itself():
    image, rng = _two_halves(), np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, *image.shape[:2]))
    found = dense_crf_from_labels(image, labels, 3, SETTINGS)
    assert not np.array_equal(found[0], found[1])
    expected = [dense_crf_from_labels(image, one, 3, SETTINGS) for one in labels]
    assert np.array_equal(found, expected)
    scores = rng.uniform(0, 1, (2, 3, *image.shape[:2]))
    expected = [dense_crf_from_scores(image, one, SETTINGS) for one in scores]
    assert np.array_equal(dense_crf_from_scores(image, scores, SETTINGS), expected)
    with pytest.raises(ValueError, match=r"\(H, W\) or \(N, H, W\)"):
        dense_crf_from_labels(image, labels[None], 3)
