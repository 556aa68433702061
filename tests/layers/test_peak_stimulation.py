"""Peaks against loops over windows, gradients against finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsis_d2.layers import find_peaks, peak_stimulation

STATISTICS = {
    "median": lambda values: np.sort(values)[(len(values) - 1) // 2],
    "mean": np.mean,
    "max": np.max,
}


def peaks_by_loops(maps, window, threshold):
    """The definition, pixel by pixel: the first maximum of the window, in reading order."""
    peaks = []
    num_images, num_classes, height, width = maps.shape
    for n in range(num_images):
        for c in range(num_classes):
            m = maps[n, c]
            least = -np.inf if threshold is None else threshold
            if isinstance(threshold, str):
                least = STATISTICS[threshold](m.ravel())
            for y in range(height):
                for x in range(width):
                    first, best = None, -np.inf
                    for v in range(max(0, y - window // 2), min(height, y + window // 2 + 1)):
                        for u in range(max(0, x - window // 2), min(width, x + window // 2 + 1)):
                            if m[v, u] > best:
                                first, best = (v, u), m[v, u]
                    if first == (y, x) and best >= least:
                        peaks.append([n, c, y, x])
    return peaks


# A few small integers: many ties, and means that are exact where it matters.
small_maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    elements=st.integers(-2, 3).map(float),
)


@settings(max_examples=150, deadline=None)
@given(
    maps=small_maps,
    window=st.sampled_from([1, 3, 5]),
    threshold=st.sampled_from(["median", "max", None, 1.0]),
)
def test_peaks_equal_loops_over_windows(maps, window, threshold):
    expected = peaks_by_loops(maps, window, threshold)
    found = find_peaks(torch.from_numpy(maps), window, threshold)
    assert found.dtype == torch.int64
    assert found.shape == (len(expected), 4)
    assert found.tolist() == expected

    scores, peaks = peak_stimulation(torch.from_numpy(maps), window, threshold)
    assert peaks.tolist() == expected
    for n, c in np.ndindex(maps.shape[:2]):
        values = [maps[n, c, y, x] for i, k, y, x in expected if (i, k) == (n, c)]
        assert scores[n, c].item() == pytest.approx(np.mean(values) if values else 0, abs=1e-6)


def test_peaks_above_the_mean():
    maps = np.random.default_rng(0).normal(size=(2, 3, 9, 7)).astype(np.float32)
    expected = peaks_by_loops(maps, 3, "mean")
    assert find_peaks(torch.from_numpy(maps), 3, "mean").tolist() == expected


def test_the_median_is_the_lower_one():
    # Two peaks, 5 and 2; of the four values the lower median is 2 and the upper one 5.
    maps = torch.tensor([5.0, 1.0, 2.0, 6.0]).view(1, 1, 1, 4)
    assert find_peaks(maps[..., [0, 1, 2, 1]], 3, "median").tolist() == [[0, 0, 0, 0], [0, 0, 0, 2]]
    assert find_peaks(maps[..., [2, 1, 0, 3]], 1, "median")[:, 3].tolist() == [0, 2, 3]


@pytest.mark.parametrize("threshold", ["median", "mean", "max", None, 0.0])
@pytest.mark.parametrize("value", [0.1, -7.3, 0.0])
def test_a_constant_map_has_a_finite_score_and_gradient(threshold, value):
    maps = torch.full((2, 3, 13, 11), value, requires_grad=True)
    scores, peaks = peak_stimulation(maps, 3, threshold)
    scores.sum().backward()
    assert maps.grad.isfinite().all()
    if threshold == 0.0 and value < 0:
        assert len(peaks) == 0
        assert scores.tolist() == [[0.0] * 3] * 2
    else:  # the first pixel alone: every other one ties with an earlier neighbour
        assert peaks[:, 2:].tolist() == [[0, 0]] * 6
        assert torch.allclose(scores, torch.full((2, 3), value))


def test_gradient_is_that_of_the_mean_of_the_peaks():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 2, generator=generator, dtype=torch.float64)

    def objective(m):
        return (peak_stimulation(m, 3, "median")[0] * weights).sum()

    (gradient,) = torch.autograd.grad(objective(maps), maps)
    numeric = torch.zeros_like(maps)
    for index in np.ndindex(*maps.shape):
        step = torch.zeros_like(maps)
        step[index] = 1e-6  # small enough to keep the peaks
        numeric[index] = (objective(maps + step) - objective(maps - step)).detach() / 2e-6
    assert torch.allclose(gradient, numeric, atol=1e-7)

    peaks = find_peaks(maps)
    assert (gradient != 0).sum() == len(peaks)


@pytest.mark.parametrize("threshold", ["median", "mean", "max", None, 0.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(0, 1, 3, 2), (0, 1)])  # a pixel, a whole map
def test_maps_that_are_not_finite_give_a_loss_that_is_not(threshold, value, where):
    maps = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = peak_stimulation(maps, 3, threshold)[0]
    maps[where] = value
    scores = peak_stimulation(maps, 3, threshold)[0]
    assert str(scores[0, 1].item()) == str(value)
    expected[0, 1] = value
    torch.testing.assert_close(scores, expected, equal_nan=True)
    for labels in (torch.zeros(2, 2), torch.ones(2, 2)):
        assert not F.multilabel_soft_margin_loss(scores, labels).isfinite()


def test_a_pixel_of_minus_infinity_is_no_peak():
    maps = torch.randn(1, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    low, lowest = maps.clone(), maps.clone()
    low[0, 0, 3, 2], lowest[0, 0, 3, 2] = -1e9, -np.inf
    for found, expected in zip(peak_stimulation(lowest), peak_stimulation(low)):
        assert torch.equal(found, expected)


def test_numpy_maps_are_taken():
    maps = np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype(np.float32)
    scores, peaks = peak_stimulation(maps)
    assert scores.shape == (1, 2)
    assert torch.equal(peaks, find_peaks(torch.from_numpy(maps)))


@pytest.mark.parametrize(("window", "threshold"), [(2, "median"), (0, None), (3, "mode")])
def test_wrong_arguments_are_refused(window, threshold):
    with pytest.raises(ValueError, match="peak finding must be"):
        find_peaks(torch.zeros(1, 1, 4, 4), window, threshold)
