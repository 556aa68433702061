import json

import numpy as np
import pytest
from conftest import json_values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsis_d2.errors import UserError
from wsis_d2.structures import MaskProposals

masks_of_any_size = st.tuples(st.integers(0, 6), st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: hnp.arrays(bool, shape)
)


def some_proposals(count=7, size=(9, 11), seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *size)) < 0.4
    return masks, rng.random(count).astype(np.float32)


def test_masks_are_sorted_by_objectness_with_ties_in_their_order():
    masks = np.eye(3, dtype=bool)[:, None]
    proposals = MaskProposals.from_masks(masks, [0.5, 0.9, 0.5])
    assert proposals.objectness.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert proposals.decode()[:, 0].argmax(axis=1).tolist() == [1, 0, 2]
    assert all(isinstance(mask["counts"], str) for mask in proposals.masks)


def test_decode_areas_and_indexing_match_the_masks():
    masks, objectness = some_proposals()
    order = np.argsort(-objectness)
    proposals = MaskProposals.from_masks(masks, objectness)
    assert proposals.size == (9, 11)
    assert len(proposals) == 7
    np.testing.assert_array_equal(proposals.decode(), masks[order])
    np.testing.assert_array_equal(proposals.decode([4, 1]), masks[order][[4, 1]])
    np.testing.assert_array_equal(proposals.areas, masks[order].sum(axis=(1, 2)))
    np.testing.assert_array_equal(proposals[1:4].decode(), masks[order][1:4])
    chosen = objectness[order] > np.median(objectness)
    np.testing.assert_array_equal(proposals[chosen].decode(), masks[order][chosen])
    assert proposals.decode([]).shape == (0, 9, 11)


def test_more_masks_than_a_byte_counts():
    masks, objectness = some_proposals(300)
    proposals = MaskProposals.from_masks(masks, objectness)
    order = np.argsort(-objectness, kind="stable")
    np.testing.assert_array_equal(proposals.areas, masks[order].sum(axis=(1, 2)))
    points = np.array([[0, 0], [8, 10], [3, 7]])
    expected = [[bool(masks[i][y, x]) for i in order] for y, x in points]
    np.testing.assert_array_equal(proposals.containing(points), expected)


@given(masks_of_any_size, st.data())
@settings(max_examples=60, deadline=None)
def test_containing_is_looking_up_every_mask(masks, data):
    count, height, width = masks.shape
    proposals = MaskProposals.from_masks(masks, np.arange(count)[::-1])
    points = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), max_size=4)
    )
    result = proposals.containing(np.array(points).reshape(-1, 2))
    assert result.shape == (len(points), count)
    for p, (y, x) in enumerate(points):
        assert result[p].tolist() == [bool(mask[y, x]) for mask in masks]


def test_containing_refuses_points_outside():
    proposals = MaskProposals.from_masks(*some_proposals())
    for point in ((-1, 0), (0, -1), (9, 0), (0, 11)):
        with pytest.raises(ValueError):
            proposals.containing([point])


def test_filter_by_area_and_number():
    masks = np.zeros((5, 10, 10), dtype=bool)
    for i, area in enumerate((0, 5, 20, 50, 100)):
        masks[i].flat[:area] = True
    proposals = MaskProposals.from_masks(masks, [0.1, 0.2, 0.9, 0.4, 0.5])
    assert proposals.filter().areas.tolist() == [20, 100, 50, 5]
    assert proposals.filter(0.05, 0.5).areas.tolist() == [20, 50, 5]
    assert proposals.filter(0.06, 0.49).areas.tolist() == [20]
    assert proposals.filter(max_per_image=2).areas.tolist() == [20, 100]
    assert len(proposals.filter(max_per_image=0)) == 0


def test_resize_by_nearest_neighbour():
    masks = np.array([[[1, 0], [0, 1]]], dtype=bool)
    resized = MaskProposals.from_masks(masks, [1.0]).resize((4, 6))
    assert resized.size == (4, 6)
    np.testing.assert_array_equal(resized.decode(), masks.repeat(2, axis=1).repeat(3, axis=2))
    np.testing.assert_array_equal(resized.resize((2, 2)).decode(), masks)


@given(masks_of_any_size)
@settings(max_examples=60, deadline=None)
def test_json_round_trip(masks):
    proposals = MaskProposals.from_masks(masks, np.linspace(0.9, 0.1, len(masks)))
    record = json.loads(json.dumps(proposals.to_json()))
    again = MaskProposals.from_json(record)
    assert again.size == masks.shape[1:]
    np.testing.assert_array_equal(again.decode(), masks)
    np.testing.assert_allclose(again.objectness, proposals.objectness, atol=1e-6)


@given(json_values("size", "counts", "objectness"))
@settings(max_examples=200, deadline=None)
def test_garbage_json_is_a_user_error(record):
    try:
        proposals = MaskProposals.from_json(record, "here")
    except UserError:
        return
    assert proposals.decode().shape[1:] == proposals.size


def test_from_json_says_where():
    with pytest.raises(UserError, match="^here holds no valid mask proposals"):
        MaskProposals.from_json({}, "here")


def test_inconsistent_proposals_are_refused():
    masks, objectness = some_proposals(2)
    rles = MaskProposals.from_masks(masks, objectness).masks
    with pytest.raises(ValueError):
        MaskProposals(rles, [1.0])
    with pytest.raises(ValueError):
        MaskProposals(rles, [1.0, float("nan")])
    with pytest.raises(ValueError):
        MaskProposals(rles, objectness, (11, 9))
    with pytest.raises(ValueError):
        MaskProposals([], [])
    assert len(MaskProposals([], [], (3, 4))) == 0


@pytest.mark.parametrize("size", [[0, 4], [4], "45", [2.5, 3], [2**20, 2**20]])
def test_sizes_are_checked_where_there_are_no_masks(size):
    with pytest.raises(UserError, match="size"):
        MaskProposals.from_json({"size": size, "counts": [], "objectness": []})
