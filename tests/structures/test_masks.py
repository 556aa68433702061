"""Masks as RLEs: what is taken, what is refused, and the arithmetic against plain arrays."""

import itertools

import numpy as np
import pytest
from conftest import json_values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_utils
from skimage.measure import label, regionprops

from wsis_d2.structures import (
    box_masks,
    decode_mask,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_areas,
    mask_box,
    mask_boxes,
    mask_containment,
    mask_iou,
    mask_nms,
    to_rle,
)
from wsis_d2.structures.masks import fill_small_holes, run_lengths

masks = st.builds(
    lambda h, w, p, seed: np.random.default_rng(seed).random((h, w)) < p,
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)


def encode(mask):
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))


@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_lengths_are_those_of_the_mask(mask):
    runs = [(value, len(list(run))) for value, run in itertools.groupby(mask.ravel(order="F"))]
    want = [n for _, n in runs]
    if runs[0][0]:
        want = [0, *want]
    assert run_lengths(encode(mask)["counts"]).tolist() == want


@given(masks, st.booleans())
def test_masks_of_any_layout_in_memory_are_encoded(mask, is_transposed):
    mask = mask.T if is_transposed else mask
    (want,) = mask_utils.encode(np.asfortranarray(mask[..., None], dtype=np.uint8))
    assert encode_mask(mask) == {**want, "counts": want["counts"].decode()}


def test_run_lengths_of_a_large_mask():
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[:, 1500:3900:7] = True
    assert run_lengths(encode(mask)["counts"]).sum() == mask.size
    assert run_lengths(encode(~mask)["counts"])[1::2].sum() == (~mask).sum()


@settings(max_examples=200, deadline=None)
@given(masks, st.data())
def test_damaged_rles_are_refused_or_stay_masks(mask, data):
    rle = encode(mask)
    counts = bytearray(rle["counts"])
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(counts) - 1))
        counts[position] = data.draw(st.integers(0, 255))
    damaged = {"size": rle["size"], "counts": bytes(counts[: data.draw(st.integers(0, 60))])}
    try:
        read = to_rle(damaged)
    except ValueError:
        return
    # What is let through is a mask, with which pycocotools' IoU comes to an end.
    decoded = mask_utils.decode(read).astype(bool)
    assert decoded.shape == mask.shape
    union = (decoded | mask).sum()
    iou = mask_utils.iou([read], [rle], [0])[0, 0]
    assert union == 0 or iou == pytest.approx((decoded & mask).sum() / union)


@settings(max_examples=200, deadline=None)
@given(json_values("size", "counts"))
def test_any_value_is_a_mask_or_a_value_error(value):
    try:
        rle = to_rle(value, (4, 5))
    except ValueError:
        return
    assert mask_utils.decode(rle).shape == tuple(rle["size"])


def test_polygons():
    # The right half of a 4 x 6 image, as two polygons, and points that are no outline.
    polygons = [[3, 0, 6, 0, 6, 2, 3, 2], [3, 2, 6, 2, 6, 4, 3, 4], [0, 0, 3, 3]]
    want = np.zeros((4, 6), dtype=np.uint8)
    want[:, 3:] = 1
    assert (mask_utils.decode(to_rle(polygons, (4, 6))) == want).all()
    with pytest.raises(ValueError, match="three points"):
        to_rle(polygons[2:], (4, 6))
    with pytest.raises(ValueError, match="not known"):
        to_rle(polygons)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=80, deadline=None)
def test_to_rle_keeps_what_is_valid(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
    runs = np.diff([0, *changes, mask.size]).tolist()
    for counts in (rle["counts"], rle["counts"].decode(), runs):
        checked = to_rle({"size": list(mask.shape), "counts": counts})
        np.testing.assert_array_equal(mask_utils.decode(checked).astype(bool), mask)


@given(st.binary(max_size=20) | st.text(max_size=20) | st.lists(st.integers(), max_size=5))
@settings(max_examples=200, deadline=None)
def test_to_rle_refuses_what_would_overrun(counts):
    try:
        rle = to_rle({"size": [4, 5], "counts": counts})
    except ValueError:
        return
    assert 0 <= mask_utils.area(rle) <= 20


@pytest.mark.parametrize("far", [1e308, 1e9, float("inf"), float("nan")])
def test_polygons_far_away_are_refused_before_pycocotools_walks_there(far):
    with pytest.raises(ValueError, match="far outside|three points"):
        to_rle([[0, 0, far, 0, far, 4]], (4, 6))


@pytest.mark.parametrize("size", [[2**31, 1], [2**20, 2**20], [0, 5], [4.5, 5], "45", None, [4]])
def test_sizes_that_no_image_has_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        to_rle({"size": size, "counts": [20]})


def random_box_masks(count, seed):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 30, 30), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 12, 2)
        h, w = rng.integers(5, 18, 2)
        mask[y : y + h, x : x + w] = True
    return masks, rng.random(count).round(1)  # with ties


def plain_iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_arithmetic_against_arrays():
    masks, _ = random_box_masks(300, 0)  # more than pycocotools takes at a time
    rles = encode_masks(masks)
    assert rles[3] == encode_mask(masks[3])
    assert np.array_equal(decode_masks(rles, (30, 30)), masks)
    assert np.array_equal(decode_mask(rles[7]), masks[7])
    assert decode_masks([], (3, 4)).shape == (0, 3, 4)
    assert mask_areas(rles).tolist() == masks.sum((1, 2)).tolist()
    rows, columns = masks[5].nonzero()
    y, x = rows.min(), columns.min()
    assert mask_box(rles[5]) == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
    assert mask_boxes(rles)[5].tolist() == [x, y, columns.max() + 1, rows.max() + 1]
    expected = [[plain_iou(a, b) for b in masks[:4]] for a in masks]
    np.testing.assert_allclose(mask_iou(rles, rles[:4]), expected)
    assert mask_iou([], rles).shape == (0, 300)
    empty = encode_mask(np.zeros((30, 30), bool))
    assert mask_iou([empty], [empty]).tolist() == [[0]]
    inside = [[(a & b).sum() / a.sum() for b in masks[:4]] for a in masks]
    np.testing.assert_allclose(mask_containment(rles, rles[:4]), inside)
    assert mask_containment([empty], [rles[0]]).tolist() == [[0]]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_nms_against_brute_force(threshold, num_classes):
    masks, scores = random_box_masks(80, 1)
    classes = np.random.default_rng(2).integers(0, num_classes or 1, len(masks))
    kept = []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if classes[i] == classes[j]]
        if all(plain_iou(masks[i], masks[j]) <= threshold for j in rivals):
            kept.append(i)
    options = {} if num_classes is None else {"classes": classes.tolist()}
    rles = encode_masks(masks)
    assert mask_nms(rles, scores, threshold, **options).tolist() == kept
    assert mask_nms(rles, scores, threshold, 5, **options).tolist() == kept[:5]


def test_nms_drops_copies_at_any_threshold():
    masks, _ = random_box_masks(2, 0)
    assert mask_nms(encode_masks(masks[[0, 1, 0]]), [0.5, 0.4, 0.9], 1.0).tolist() == [2, 1]


def test_nms_of_nothing():
    assert len(mask_nms([], np.zeros(0), 0.5)) == 0


def test_box_masks_hold_the_pixels_whose_centres_they_hold():
    rng = np.random.default_rng(0)
    size = (9, 13)
    boxes = np.sort(rng.uniform(-2, 12, (20, 2, 2)), 1).reshape(-1, 4)
    masks = box_masks(boxes, size)
    assert masks.shape == (20, *size)
    for (x0, y0, x1, y1), mask in zip(boxes, masks):
        for y, x in itertools.product(*map(range, size)):
            assert mask[y, x] == (y0 <= y + 0.5 < y1 and x0 <= x + 0.5 < x1)
    whole = box_masks(np.array([[2.0, 1, 7, 4]]), size)
    assert mask_box(encode_masks(whole)[0]) == [2, 1, 5, 3]
    assert box_masks(np.zeros((0, 4)), size).shape == (0, *size)


@given(masks, st.integers(0, 20))
def test_holes_are_background_inside_and_no_larger_than_said(mask, max_size):
    inner = (slice(1, -1), slice(1, -1))
    background = label(np.pad(~mask, 1, constant_values=True), connectivity=1)
    want, count = mask.copy(), 0
    for region in regionprops(background):
        if region.label != background[0, 0] and region.area <= max_size:
            want |= background[inner] == region.label
            count += 1
    filled, number = fill_small_holes(mask, max_size)
    assert number == count
    assert np.array_equal(filled, want)
