"""Seeds against their definition pixel by pixel, and with the dense CRF on images of two colors."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.labeling import alpha_seeds, build_seed_function, confident_seeds, crf_settings
from wsis_d2.layers import CRFSettings


def _confident_by_loops(cam, class_ids, fg_threshold, bg_threshold):
    seeds = np.zeros(cam.shape[1:], np.uint8)
    for y, x in np.ndindex(*seeds.shape):
        best = int(np.argmax(cam[:, y, x]))
        if cam[best, y, x] > fg_threshold:
            seeds[y, x] = class_ids[best] + 1
        elif cam[best, y, x] > bg_threshold:
            seeds[y, x] = 255
    return seeds


def _alpha_by_loops(cam, class_ids, low_alpha, high_alpha):
    seeds = np.zeros(cam.shape[1:], np.uint8)
    for y, x in np.ndindex(*seeds.shape):
        best = int(np.argmax(cam[:, y, x]))
        score = float(cam[best, y, x])
        if score > (1 - score) ** low_alpha:
            seeds[y, x] = class_ids[best] + 1
        elif score > (1 - score) ** high_alpha:
            seeds[y, x] = 255
    return seeds


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(0.05, 0.9), st.floats(0, 1))
def test_without_crf_against_loops(seed, num_classes, fg_threshold, ratio):
    rng = np.random.default_rng(seed)
    cam = rng.random((num_classes, 5, 6)).astype(np.float32) ** 3
    class_ids = rng.choice(80, num_classes, replace=False)
    image = np.zeros((5, 6, 3), np.uint8)
    bg_threshold = fg_threshold * ratio
    assert np.array_equal(
        confident_seeds(image, cam, class_ids, fg_threshold, bg_threshold, crf=None),
        _confident_by_loops(cam, class_ids, fg_threshold, bg_threshold),
    )
    assert np.array_equal(
        alpha_seeds(image, cam, class_ids, 2.0, 9.0, crf=None),
        _alpha_by_loops(cam, class_ids, 2.0, 9.0),
    )


def _bright_square():
    """A bright square on dark ground, and a CAM that covers its inner part well."""
    image = np.full((56, 56, 3), 40, np.uint8)
    image[20:36, 20:36] = 220
    ys, xs = np.mgrid[:56, :56]
    cam = np.exp(-((ys - 27.5) ** 2 + (xs - 27.5) ** 2) / (2 * 6.0**2)).astype(np.float32)
    return image, cam[None], np.array([6])


@pytest.mark.parametrize("method", [confident_seeds, alpha_seeds])
def test_the_crf_brings_seeds_to_the_edges(method):
    image, cam, class_ids = _bright_square()
    inside = image[..., 0] > 100
    plain, refined = method(image, cam, class_ids, crf=None), method(image, cam, class_ids)

    def mistakes(seeds):
        return ((seeds == 7) & ~inside).sum() + ((seeds == 0) & inside).sum()

    assert set(np.unique(refined)) <= {0, 7, 255}
    assert mistakes(refined) <= mistakes(plain)
    assert (refined == 7).sum() > 100
    # A ring of the dark ground has a CAM above the low threshold: the colors say background.
    assert (plain[~inside] == 255).mean() > 0.05
    assert (refined[~inside] == 0).mean() > 0.98


def test_a_pixel_is_background_only_where_both_runs_say_so():
    image = np.zeros((1, 3, 3), np.uint8)
    cam = np.array([[[0.9, 0.2, 0.01]]], np.float32)
    assert confident_seeds(image, cam, [0], crf=None).tolist() == [[1, 255, 0]]
    # Backgrounds of 0.8^4 = 0.41 and 0.8^32 = 0.0008 beside 0.2; of 0.99^32 = 0.72 beside 0.01.
    assert alpha_seeds(image, cam, [0], crf=None).tolist() == [[1, 255, 0]]


@pytest.mark.parametrize("method", [confident_seeds, alpha_seeds])
def test_types_follow_the_cams(method):
    image, cam, class_ids = _bright_square()
    array = method(image, cam, class_ids)
    tensor = method(*map(torch.from_numpy, (image, cam, class_ids)))
    assert array.dtype == np.uint8
    assert tensor.dtype == torch.uint8
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("method", [confident_seeds, alpha_seeds])
@pytest.mark.parametrize(("shape", "ids"), [((2, 4, 4), [0]), ((4, 4), [0]), ((0, 4, 4), [])])
def test_wrong_shapes(method, shape, ids):
    with pytest.raises(ValueError, match="cam must be"):
        method(np.zeros((4, 4, 3), np.uint8), np.zeros(shape, np.float32), np.array(ids, int))


def _cfg(*options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.merge_from_list(list(options))
    return cfg


def test_settings_of_the_config():
    assert crf_settings(_cfg()) == CRFSettings()
    crf = crf_settings(_cfg("DENSE_CRF.BILATERAL_SXY", 80.0, "DENSE_CRF.NUM_ITERS", 3))
    assert (crf.bilateral_sxy, crf.num_iters) == (80.0, 3)
    assert crf_settings(_cfg("DENSE_CRF.ENABLED", False)) is None

    image, cam, class_ids = _bright_square()
    make = build_seed_function(_cfg("SEEDS.FG_THRESHOLD", 0.6, "DENSE_CRF.ENABLED", False))
    expected = confident_seeds(image, cam, class_ids, fg_threshold=0.6, crf=None)
    assert np.array_equal(make(image, cam, class_ids), expected)
    make = build_seed_function(_cfg("SEEDS.METHOD", "alpha", "SEEDS.LOW_ALPHA", 8.0))
    expected = alpha_seeds(image, cam, class_ids, low_alpha=8.0, crf=CRFSettings())
    assert np.array_equal(make(image, cam, class_ids), expected)
    with pytest.raises(UserError, match="SEEDS.METHOD is 'sure'"):
        build_seed_function(_cfg("SEEDS.METHOD", "sure"))
