"""Random walks against powers of the dense transition matrix in float64."""

import math
import sys

import numpy as np
import pytest
import torch

from wsis_d2.layers import boundary_affinity, feature_affinity, random_walk
from wsis_d2.layers.affinity import stack_affinities
from wsis_d2.layers.random_walk import _stack, _unstack, chebyshev_coefficients
from wsis_d2.layers.stencil import SparseStencil, Stencil


def transition_matrix(affinity, beta):
    matrix = affinity.to(torch.float64).dense().numpy() ** beta
    return matrix / matrix.sum(0)


def walk_by_matrix(x, affinity, beta, num_steps):
    power = np.linalg.matrix_power(transition_matrix(affinity, beta), num_steps)
    x = np.asarray(x, dtype=np.float64)
    return (x.reshape(len(x), -1) @ power).reshape(x.shape)


def problem(shape=(9, 11), num_maps=3, radius=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boundary = torch.rand(shape, generator=generator, dtype=torch.float64) ** 3
    x = torch.rand(num_maps, *shape, generator=generator, dtype=torch.float64)
    return x, boundary_affinity(boundary, radius)


@pytest.mark.parametrize("method", ["auto", "chebyshev", "power", "dense"])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 7, 32, 255, 256])
def test_methods_agree_with_the_power_of_the_matrix(method, num_steps):
    x, affinity = problem()
    expected = walk_by_matrix(x, affinity, 3, num_steps)
    result = random_walk(x, affinity, 3, num_steps, method=method, tolerance=1e-13)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_maps", [1, 3, 4, 10])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (20, 5)])
def test_maps_of_any_size(shape, num_maps):
    x, affinity = problem(shape, num_maps, radius=5)
    expected = walk_by_matrix(x, affinity, 10, 64)
    result = random_walk(x.float(), affinity.to(torch.float32), num_steps=64)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4, 1e-8])
def test_tolerance_bounds_the_error(tolerance):
    x, affinity = problem(num_maps=4)
    # The hardest start, too: a single pixel, with every eigenvector in it.
    x = torch.cat([x, torch.eye(99, dtype=torch.float64)[[0, 50]].view(2, 9, 11)])
    degrees = affinity.pow(10).degrees().numpy()
    expected = walk_by_matrix(x, affinity, 10, 256)
    result = random_walk(x, affinity, method="chebyshev", tolerance=tolerance)
    error = np.sqrt((degrees * (result.numpy() - expected) ** 2).sum((1, 2)))
    allowed = tolerance * np.sqrt((degrees * x.numpy() ** 2).sum((1, 2)))
    assert (error <= allowed).all()


@pytest.mark.parametrize("num_steps", [1, 2, 9, 40, 256])
def test_coefficients_are_those_of_the_monomial(num_steps):
    coefficients = chebyshev_coefficients(num_steps, 0)
    s = np.linspace(-1, 1, 101)
    series = np.polynomial.chebyshev.chebval(s, coefficients)
    np.testing.assert_allclose(series, s**num_steps, rtol=0, atol=1e-12)
    expected = [
        (1 if k else 0.5) * math.comb(num_steps, (num_steps - k) // 2) / 2 ** (num_steps - 1)
        if (num_steps - k) % 2 == 0
        else 0
        for k in range(num_steps + 1)
    ]
    np.testing.assert_allclose(coefficients, expected, rtol=1e-10)


@pytest.mark.parametrize("num_steps", [16, 255, 256, 4096, 100_000])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_degree_is_the_least_within_the_tolerance_and_grows_like_a_square_root(
    num_steps, tolerance
):
    coefficients = chebyshev_coefficients(num_steps, tolerance)
    degree = len(coefficients) - 1
    assert degree <= math.sqrt(2 * num_steps * math.log(2 / tolerance)) + 2
    assert 1 - sum(coefficients) <= tolerance * (1 + 1e-4)
    assert 1 - sum(coefficients[:-1]) > tolerance
    assert coefficients[-1] > 0


def test_the_degrees_that_the_design_promises():
    assert len(chebyshev_coefficients(256, 1e-3)) - 1 <= 54
    assert len(chebyshev_coefficients(256, 1e-5)) - 1 <= 72


def test_constants_stay_and_the_weighted_sum_is_kept():
    x, affinity = problem()
    x[0] = 1
    degrees = affinity.pow(10).degrees()
    result = random_walk(x, affinity, tolerance=1e-12)
    np.testing.assert_allclose(result[0].numpy(), 1, rtol=1e-10)
    np.testing.assert_allclose(
        (result * degrees).sum((1, 2)).numpy(), (x * degrees).sum((1, 2)).numpy(), rtol=1e-10
    )


def test_a_closed_boundary_holds_the_walk():
    boundary = torch.zeros(8, 12)
    boundary[:, 6] = 1
    x = torch.zeros(1, 8, 12)
    x[0, 2, 2] = 1
    result = random_walk(x, boundary_affinity(boundary, 5))
    assert not result[0, :, 6:].any()
    assert (result[0, :, :6] > 0.005).all()


def test_float32_stays_close_to_float64_at_the_default_tolerance():
    x, affinity = problem((24, 30), num_maps=5, radius=5)
    exact = random_walk(x, affinity, method="power")
    single = random_walk(x.float(), affinity.to(torch.float32))
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 5e-4 * exact.max()


def test_features_walk_too():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 7, 8, generator=generator, dtype=torch.float64)
    affinity = feature_affinity(features, 5)
    x = torch.rand(2, 7, 8, generator=generator, dtype=torch.float64)
    expected = walk_by_matrix(x, affinity, 8, 256)
    np.testing.assert_allclose(
        random_walk(x, affinity, beta=8, tolerance=1e-9).numpy(), expected, atol=1e-8
    )


def test_lists_are_walked_like_single_maps():
    problems = [problem((5, 9), 2), problem((8, 4), 5, seed=1), problem((6, 6), 1, seed=2)]
    xs, affinities = map(list, zip(*problems))
    results = random_walk(xs, affinities, beta=4, num_steps=50)
    assert [r.shape for r in results] == [x.shape for x in xs]
    for x, affinity, result in zip(xs, affinities, results):
        torch.testing.assert_close(result, random_walk(x, affinity, beta=4, num_steps=50))
    assert random_walk([], []) == []


def test_many_maps_walk_in_groups(monkeypatch):
    x, affinity = problem(num_maps=37)
    expected = random_walk(x, affinity, tolerance=1e-10)
    # The package's function hides the module of its name.
    module = sys.modules[random_walk.__module__]
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 1)
    packed = []
    monkeypatch.setattr(
        SparseStencil,
        "pack",
        lambda self, x, pack=SparseStencil.pack: packed.append(len(x)) or pack(self, x),
    )
    result = random_walk(x, affinity, tolerance=1e-10)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-8)
    assert packed == [16, 16, 5]
    assert random_walk(x[:0], affinity).shape == (0, 9, 11)


def test_maps_of_different_sizes_walk_on_one_tall_map():
    problems = [problem((5, 9), 2), problem((8, 4), 5, seed=1), problem((6, 6), 1, seed=2)]
    tall, affinity = _stack(problems)
    assert tall.shape == (5, 19, 9)
    results = _unstack(random_walk(tall, affinity, tolerance=1e-10), problems)
    for (x, own), result in zip(problems, results):
        expected = walk_by_matrix(x, own, 10, 256)
        assert result.shape == x.shape
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("shape", [(9, 11), (2, 3), (1, 1)])
@pytest.mark.parametrize("make", [Stencil, SparseStencil])
def test_products_of_the_stencils(make, shape):
    x, affinity = problem(shape, num_maps=3, radius=5)
    v = torch.rand(x.shape, dtype=torch.float64)
    stencil = make(affinity.pow(2))
    transition = transition_matrix(affinity, 2)

    product = (x.flatten(1).numpy() @ transition).reshape(x.shape)
    result = stencil.unpack(stencil.product(stencil.pack(x)), 3)
    np.testing.assert_allclose(result.numpy(), product, atol=1e-12)

    u, packed = stencil.pack(x), stencil.pack(v)
    result = stencil.recur(u, packed)
    assert result is packed
    np.testing.assert_allclose(
        stencil.unpack(result, 3).numpy(), 2 * product - v.numpy(), atol=1e-12
    )
    np.testing.assert_array_equal(stencil.unpack(u, 3), x)


def test_inputs_of_other_kinds():
    x, affinity = problem()
    expected = random_walk(x, affinity)
    torch.testing.assert_close(random_walk(x.numpy(), affinity), expected)
    single = affinity.to(torch.float32)
    assert random_walk(x.half(), single).dtype == torch.float32
    masks = random_walk(x > 0.5, single)
    torch.testing.assert_close(masks, random_walk((x > 0.5).float(), single))
    assert random_walk(x[:0], affinity).shape == (0, 9, 11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            random_walk(x.float(), single), expected.float(), atol=1e-4, rtol=0
        )
    assert not random_walk(x.requires_grad_(), affinity).requires_grad


def test_the_input_is_left_as_it_was():
    x, affinity = problem()
    before = x.clone(), affinity.values.clone()
    for method in ("chebyshev", "power", "dense"):
        random_walk(x, affinity, method=method)
        random_walk(x, affinity, num_steps=0, method=method).add_(1)
    assert torch.equal(x, before[0])
    assert torch.equal(affinity.values, before[1])


def test_wrong_arguments_are_refused():
    x, affinity = problem()
    with pytest.raises(ValueError, match="method"):
        random_walk(x, affinity, method="sparse")
    for wrong in ({"beta": 0}, {"num_steps": -1}, {"tolerance": -1}):
        with pytest.raises(ValueError, match="random walk takes"):
            random_walk(x, affinity, **wrong)
    with pytest.raises(ValueError, match=r"\(K, 9, 11\)"):
        random_walk(x[:, 1:], affinity)
    with pytest.raises(ValueError, match="affinities"):
        random_walk([x], [affinity, affinity])
    other = boundary_affinity(torch.zeros(9, 11, dtype=torch.float64), 3)
    with pytest.raises(ValueError, match="radius"):
        stack_affinities([affinity, other])
