"""Masks as polygons, filled again by pycocotools and OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_utils
from scipy import ndimage

from wsis_d2.structures.polygons import join_rings, mask_rings, without_straight


def masks():
    """(H, W) bool of any size, in single pixels or in blocks."""
    sides = st.tuples(st.integers(1, 14), st.integers(1, 14))
    small = hnp.arrays(bool, sides)
    return st.builds(lambda m, n: m.repeat(n, 0).repeat(n, 1), small, st.integers(1, 3))


def fill_coco(polygons, shape):
    if not polygons:
        return np.zeros(shape, bool)
    rles = mask_utils.frPyObjects([p.ravel().astype(float).tolist() for p in polygons], *shape)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool)


def fill_opencv(polygons, shape):
    filled = np.zeros(shape, bool)
    for polygon in polygons:
        one = np.zeros(shape, np.uint8)
        cv2.fillPoly(one, [polygon.astype(np.int32)], 1)
        filled |= one.astype(bool)
    return filled


@pytest.mark.parametrize(("along", "fill"), [("edges", fill_coco), ("centers", fill_opencv)])
@given(mask=masks())
def test_filled_again_it_is_the_same_mask(along, fill, mask):
    pieces = mask_rings(mask, along)
    polygons = [without_straight(join_rings(rings)) for rings in pieces]
    np.testing.assert_array_equal(fill(polygons, mask.shape), mask)
    eight = np.ones((3, 3))
    assert len(pieces) == ndimage.label(mask, eight)[1]
    outside = ~np.pad(mask, 1)
    assert sum(map(len, pieces)) - len(pieces) == ndimage.label(outside)[1] - 1


@given(mask=masks())
def test_no_point_is_needless(mask):
    """Along edges, each point is a corner of the mask."""
    padded = np.pad(mask, 1).astype(int)
    # Pixels of the mask around each corner: all four, none, or two side by side are no corner.
    around = padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]
    diagonal = (padded[1:, 1:] == padded[:-1, :-1]) & (padded[1:, :-1] == padded[:-1, 1:])
    corners = (around % 2 == 1) | ((around == 2) & diagonal)
    points = [point for rings in mask_rings(mask) for ring in rings for point in ring.tolist()]
    assert {(y, x) for x, y in points} == set(zip(*map(np.ndarray.tolist, np.nonzero(corners))))
    assert len(points) == ((around % 2 == 1) + 2 * ((around == 2) & diagonal)).sum()


def test_rings_of_a_frame():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 1:6] = True
    mask[4, 3] = False
    ((outer, hole),) = mask_rings(mask)
    assert sorted(outer.tolist()) == [[1, 2], [1, 7], [6, 2], [6, 7]]
    assert sorted(hole.tolist()) == [[3, 4], [3, 5], [4, 4], [4, 5]]
    joined = join_rings([outer, hole])
    assert len(joined) == 4 + 4 + 2  # there and back: one point of each twice


def test_pieces_are_tied_by_the_shortest_line():
    mask = np.zeros((20, 40), bool)
    mask[5:10, 2:10] = mask[9:15, 20:30] = mask[0:3, 36:39] = True
    rings = [ring for piece in mask_rings(mask, "centers") for ring in piece]
    filled = fill_opencv([without_straight(join_rings(rings))], mask.shape)
    assert filled[mask].all()
    # Lines from column 9 to 20 and from 29 to 36, one pixel per column.
    assert (filled & ~mask).sum() == 10 + 6


def test_nothing_and_single_pixels():
    assert mask_rings(np.zeros((3, 4), bool)) == []
    pixel = np.ones((1, 1), bool)
    assert [ring.tolist() for ring in mask_rings(pixel, "centers")[0]] == [[[0, 0]]]
    assert len(mask_rings(pixel)[0][0]) == 4
