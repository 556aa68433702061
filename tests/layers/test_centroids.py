"""Centroids against one pixel at a time, groups against hand-made maps."""

import numpy as np
import pytest
import torch
from dispatched_calls import DispatchedCalls
from scipy.ndimage import map_coordinates

from wsis_d2.layers import cluster_centroids, find_centroids


def centroids_by_loops(displacement, num_iters):
    _, height, width = displacement.shape
    centroids = np.zeros((2, height, width), np.int64)
    for y in range(height):
        for x in range(width):
            p = np.array([y, x], np.float32)
            for _ in range(num_iters):
                step = [
                    map_coordinates(d, p[:, None], np.float64, order=1)[0] for d in displacement
                ]
                p = np.clip((p + step).astype(np.float32), 0, (height - 1, width - 1))
            centroids[:, y, x] = np.round(p)
    return centroids


def pinwheels(height, width, sinks, speed):
    """Every pixel points a part of the way to the nearest sink."""
    grid = np.stack(np.mgrid[:height, :width])
    arrows = np.array(sinks)[:, :, None, None] - grid
    nearest = (arrows**2).sum(1).argmin(0)
    return speed * np.take_along_axis(arrows, nearest[None, None], 0)[0].astype(np.float32)


@pytest.mark.parametrize("speed", [1.0, 0.6, 0.1])
def test_pixels_arrive_at_their_sink(speed):
    sinks = np.array([(2, 3), (8, 4), (5, 11)])
    displacement = pinwheels(10, 14, sinks, speed)
    centroids = find_centroids(torch.from_numpy(displacement))
    assert centroids.dtype == torch.int64
    found = {tuple(c) for c in centroids.flatten(1).T.tolist()}
    assert found >= {tuple(s) for s in sinks}
    np.testing.assert_array_equal(
        centroids, centroids_by_loops(displacement, 300 if speed < 1 else 3)
    )


@pytest.mark.parametrize("num_iters", [0, 1, 9, 10, 11, 20, 45])
def test_centroids_equal_loops_over_pixels(num_iters):
    rng = np.random.default_rng(num_iters)
    # Some arrows point far out of the map.
    displacement = pinwheels(7, 9, [(3, 2), (4, 7)], 0.5) + rng.normal(size=(2, 7, 9)) * 2
    displacement = displacement.astype(np.float32)
    expected = centroids_by_loops(displacement, num_iters)
    np.testing.assert_array_equal(
        find_centroids(torch.from_numpy(displacement), num_iters), expected
    )


def test_centroids_are_rounded_half_to_even_inside_the_map():
    displacement = torch.zeros(2, 4, 5)
    displacement[0] = 0.5
    displacement[1] = -0.5
    y, x = find_centroids(displacement, 1)
    assert y[:, 0].tolist() == [0, 2, 2, 3]
    assert x[0].tolist() == [0, 0, 2, 2, 4]


def test_stops_where_nothing_moves():
    y, x = find_centroids(torch.zeros(2, 3, 4), num_iters=10**12)
    assert y.tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert x.tolist() == [[0, 1, 2, 3]] * 3


def test_a_gpu_waits_for_few_looks_at_a_field_that_never_settles():
    torch.manual_seed(0)
    with DispatchedCalls() as calls:
        find_centroids(torch.randn(2, 24, 32) * 3, 300)
    # Two for each of eight looks, and one for the check of the field.
    assert 0 < calls.num_waits <= 17


def test_groups_of_hand_made_regions():
    # Two regions that touch in a corner only, one far off; x: |D| is not below the threshold.
    picture = ["aax.c", "aaxxx", "xxbbx", "xxbbx"]
    is_small = torch.tensor([[letter != "x" for letter in row] for row in picture])
    displacement = torch.stack([torch.where(is_small, 1.4, 1.5), torch.full((4, 5), 2.0)])
    a, b, c, nowhere = (0, 1), (3, 2), (0, 3), (3, 4)
    targets = [
        [a, a, nowhere, c, c],
        [a, (1, 1), b, c, c],
        [a, nowhere, (2, 3), b, b],
        [a, b, b, b, nowhere],
    ]
    expected = [[1, 1, 0, 2, 2], [1, 1, 3, 2, 2], [1, 0, 3, 3, 3], [1, 3, 3, 3, 0]]
    centroids = torch.tensor(targets).permute(2, 0, 1)
    labels = cluster_centroids(centroids, displacement)
    assert labels.dtype == torch.int64
    assert labels.tolist() == expected
    # Without pixels of the group of no region, and of the region c, the numbers have no gaps.
    centroids[:, is_small.logical_not() | (labels == 0) | (labels == 2)] = torch.tensor([[0], [0]])
    assert set(cluster_centroids(centroids, displacement).unique().tolist()) == {0, 1}
    assert cluster_centroids(centroids, displacement, threshold=0.5).max() == 0


def test_instances_of_pinwheels():
    sinks = [(8, 8), (24, 10), (14, 28)]
    displacement = pinwheels(32, 40, sinks, 0.9)
    labels = cluster_centroids(find_centroids(displacement), displacement)
    grid = np.stack(np.mgrid[:32, :40])
    nearest = ((np.array(sinks)[:, :, None, None] - grid) ** 2).sum(1).argmin(0)
    pairs = set(zip(labels.flatten().tolist(), nearest.ravel().tolist()))
    assert len(pairs) == 3


def test_numpy_and_half_precision_inputs():
    displacement = pinwheels(8, 9, [(2, 2), (6, 6)], 0.5)
    centroids = find_centroids(displacement)
    assert torch.equal(centroids, find_centroids(torch.from_numpy(displacement)))
    labels = cluster_centroids(centroids.numpy(), displacement)
    assert torch.equal(labels, cluster_centroids(centroids, torch.from_numpy(displacement).half()))


def test_bad_fields_are_named():
    with pytest.raises(ValueError, match="displacement must be .2, H, W., got .1, 2, 8, 8"):
        find_centroids(torch.zeros(1, 2, 8, 8))
    field = torch.zeros(2, 8, 8)
    field[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        find_centroids(field)
    with pytest.raises(ValueError, match="centroids .2, 4, 4. do not match"):
        cluster_centroids(torch.zeros(2, 4, 4), torch.zeros(2, 8, 8))
