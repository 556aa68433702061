"""Pair affinities against loops over all pairs of pixels."""

import itertools

import numpy as np
import pytest
import torch

from wsis_d2.layers import PairAffinity, boundary_affinity, feature_affinity


def affinity_by_loops(shape, radius, affinity_of_pair):
    """The full matrix, pair by pair, from ``affinity_of_pair(p, q)``; 1 on the diagonal."""
    pixels = list(itertools.product(range(shape[0]), range(shape[1])))
    matrix = np.eye(len(pixels))
    for i, p in enumerate(pixels):
        for j, q in enumerate(pixels):
            if 0 < (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 < radius**2:
                matrix[i, j] = affinity_of_pair(p, q)
    return matrix


def strongest_on_path(boundary, p, q):
    """Over the pixels of the bounding rectangle at a distance below 1 from the line p-q."""
    (y0, x0), (y1, x1) = p, q
    strongest = -np.inf
    for y in range(min(y0, y1), max(y0, y1) + 1):
        for x in range(min(x0, x1), max(x0, x1) + 1):
            distance = abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / np.hypot(y1 - y0, x1 - x0)
            if distance < 1 - 1e-9:
                strongest = max(strongest, boundary[y, x])
    return strongest


@pytest.mark.parametrize(("shape", "radius"), [((6, 7), 2), ((7, 6), 4), ((8, 9), 5), ((2, 3), 5)])
def test_boundary_affinity_is_the_maximum_on_every_path(rng, shape, radius):
    boundary = rng.random(shape)
    expected = affinity_by_loops(shape, radius, lambda p, q: 1 - strongest_on_path(boundary, p, q))
    affinity = boundary_affinity(boundary, radius)
    np.testing.assert_allclose(affinity.dense().numpy(), expected, rtol=0, atol=1e-12)


def test_a_line_of_boundary_parts_the_map():
    boundary = torch.zeros(7, 8)
    boundary[:, 4] = 1
    matrix = boundary_affinity(boundary, 5).dense().view(7, 8, 7, 8)
    assert not matrix[:, :4, :, 5:].any()
    assert not matrix[:, :4, :, 4].any()
    assert matrix[3, 1, 3, 3] == 1


def test_feature_affinity_is_the_exponential_of_the_mean_distance(rng):
    features = rng.normal(size=(3, 5, 6))
    expected = affinity_by_loops(
        (5, 6),
        4,
        lambda p, q: np.exp(-np.abs(features[:, p[0], p[1]] - features[:, q[0], q[1]]).mean()),
    )
    affinity = feature_affinity(features, 4)
    np.testing.assert_allclose(affinity.dense().numpy(), expected, rtol=1e-12)


def test_pairs_that_leave_the_map_have_no_affinity():
    affinity = feature_affinity(torch.zeros(2, 4, 5), 3)
    for (dy, dx), values in zip(affinity.offsets.tolist(), affinity.values):
        for y, x in itertools.product(range(4), range(5)):
            inside = y + dy < 4 and 0 <= x + dx < 5
            assert values[y, x] == inside


def test_offsets_hold_one_of_every_pair_in_reading_order():
    offsets = boundary_affinity(torch.zeros(9, 9), 5).offsets.tolist()
    disk = {(y, x) for y in range(-4, 5) for x in range(-4, 5) if 0 < y * y + x * x < 25}
    assert len(offsets) == 34
    assert {tuple(o) for o in offsets} | {(-y, -x) for y, x in offsets} == disk
    assert offsets == sorted(offsets)
    assert all(offset > [0, 0] for offset in offsets)


def test_degrees_and_powers_are_those_of_the_matrix(rng):
    affinity = boundary_affinity(rng.random((6, 5)), 4)
    cubed = affinity.pow(3)
    matrix = affinity.dense().numpy() ** 3
    np.testing.assert_allclose(cubed.dense().numpy(), matrix, rtol=1e-12)
    np.testing.assert_allclose(cubed.degrees().numpy(), matrix.sum(0).reshape(6, 5), rtol=1e-12)
    assert cubed.shape == (6, 5)


def test_dtypes_and_gradients_pass_through():
    boundary = torch.rand(5, 6, requires_grad=True)
    boundary_affinity(boundary, 3).values.sum().backward()
    assert boundary.grad.sum() < 0
    affinity = boundary_affinity(boundary.detach(), 3)
    assert affinity.values.dtype == torch.float32
    assert affinity.to(torch.float64).values.dtype == torch.float64
    assert affinity.to(torch.float64).offsets.dtype == torch.int64


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        boundary_affinity(torch.zeros(1, 5, 5), 5)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        feature_affinity(torch.zeros(5, 5), 5)
    with pytest.raises(ValueError, match="radius"):
        boundary_affinity(torch.zeros(5, 5), 1)
    with pytest.raises(ValueError, match="offsets"):
        PairAffinity(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 5, 5))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
