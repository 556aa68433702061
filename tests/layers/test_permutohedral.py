"""The permutohedral lattice against the paper's steps, written out point by point."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from wsis_d2.layers.permutohedral import PermutohedralLattice


def _vertices(y):
    """Vertices of the simplex around y (d + 1,), a point of the plane of sum 0, and weights.

    A lattice point of remainder k has coordinates that are all k modulo d + 1. The simplex has one
    of every remainder: the nearest (the lattice's Voronoi cells are permutohedra whose corners are
    the simplices' centres), so that y is a convex combination of them.
    """
    size = len(y)
    vertices = []
    for remainder in range(size):
        floors = np.floor((y - remainder) / size) * size + remainder
        choices = [
            point
            for steps in itertools.product([0, size], repeat=size)
            if abs((point := floors + steps).sum()) < 0.5
        ]
        vertices.append(min(choices, key=lambda point: ((point - y) ** 2).sum()))
    system = np.vstack([np.array(vertices).T, np.ones(size)])
    weights = np.linalg.lstsq(system, np.append(y, 1), rcond=None)[0]
    assert weights.min() > -1e-6
    return [tuple(map(int, vertex)) for vertex in vertices], weights


def _filter(features, values):
    """Splat, blur and slice with a dictionary of cells."""
    dim = features.shape[1]
    # An orthogonal basis of the plane; its lengths make one standard deviation of all three steps.
    basis = np.zeros((dim + 1, dim))
    for j in range(dim):
        basis[: j + 1, j], basis[j + 1, j] = 1, -(j + 1)
    basis /= np.linalg.norm(basis, axis=0)
    points = features @ (basis * (dim + 1) * math.sqrt(2 / 3)).T
    simplices = [_vertices(y) for y in points]
    cells = defaultdict(lambda: np.zeros(values.shape[1]))
    for (vertices, weights), value in zip(simplices, values):
        for vertex, weight in zip(vertices, weights):
            cells[vertex] = cells[vertex] + weight * value
    for axis in range(dim + 1):
        step = -np.ones(dim + 1, int)
        step[axis] = dim
        blurred = {
            cell: value
            + sum(0.5 * cells.get(tuple(int(c) for c in cell + sign * step), 0) for sign in (-1, 1))
            for cell, value in cells.items()
        }
        cells = blurred
    shares = [sum(w * cells[v] for v, w in zip(*simplex)) for simplex in simplices]
    return np.array(shares) / (1 + 2.0**-dim)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_against_the_paper_s_steps(dim, spread):
    rng = np.random.default_rng(dim)
    features, values = spread * rng.standard_normal((60, dim)), rng.uniform(size=(60, 3))
    expected = _filter(features, values)
    lattice = PermutohedralLattice(torch.from_numpy(features).float())
    found = lattice.filter(torch.from_numpy(values).float())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_many_points_are_filtered_by_a_gaussian():
    ys, xs = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    features = torch.stack([xs, ys], -1).flatten(0, 1) / 4.0
    values = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) ** 4
    kernel = torch.exp(-0.5 * torch.cdist(features, features) ** 2)
    filtered = PermutohedralLattice(features).filter(torch.cat([values, torch.ones(2000, 1)], 1))
    # Up to one factor: what counts is the mean that the weights give.
    found, expected = filtered[:, :2] / filtered[:, 2:], kernel @ values / kernel.sum(1)[:, None]
    assert (found - expected).abs().max() < 0.02
    assert (values.mean(0) - expected).abs().max() > 0.05


def test_it_is_linear():
    features = 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    lattice = PermutohedralLattice(features)
    values = torch.rand(50, 2)
    torch.testing.assert_close(lattice.filter(values), lattice.filter(torch.eye(50)) @ values)


def test_points_in_one_place_share_their_values():
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0], [90.0, -70.0]])
    filtered = PermutohedralLattice(features).filter(torch.tensor([[1.0], [2.0], [4.0]]))
    assert filtered[0] == filtered[1]
    alone = PermutohedralLattice(features[2:])
    torch.testing.assert_close(filtered[2:], alone.filter(torch.tensor([[4.0]])))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (3,)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="features must be"):
        PermutohedralLattice(torch.zeros(shape))


def test_points_too_far_apart():
    with pytest.raises(ValueError, match="too many standard deviations"):
        PermutohedralLattice(torch.tensor([[0.0] * 7, [1e6] * 7]))
