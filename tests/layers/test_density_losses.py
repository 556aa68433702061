"""Pseudo ground truth and losses of density maps, against loops."""

import math

import pytest
import torch

from wsis_d2.layers import count_losses, find_peaks, highest_peaks, spatial_losses


def test_as_many_peaks_as_objects():
    maps = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[0, 1, 2], [3, 4, 500]])
    found = highest_peaks(maps, counts)
    peaks = find_peaks(maps)
    for n in range(2):
        for c in range(3):
            own = [tuple(p) for p in peaks[(peaks[:, 0] == n) & (peaks[:, 1] == c), 2:].tolist()]
            own.sort(key=lambda p: -maps[n, c][p])
            expected = set(own[: counts[n, c]])
            assert {tuple(p) for p in found[n, c].nonzero().tolist()} == expected
    assert len(own) < 500  # fewer peaks than objects: all of them


def test_equally_high_peaks_come_in_reading_order():
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 0, 0] = maps[0, 0, 4, 4] = maps[0, 0, 0, 4] = 1
    found = highest_peaks(maps, torch.tensor([[2]]), threshold=0.5)
    assert found[0, 0].nonzero().tolist() == [[0, 0], [0, 4]]


def test_spatial_losses():
    responses = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    peaks = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    peaks[0, 0, 1, 1] = peaks[0, 0, 2, 0] = peaks[1, 1, 0, 2] = True
    absent = torch.tensor([[False, True], [True, False]])
    positive, negative = spatial_losses(responses, peaks, absent)
    at_peaks = [responses[0, 0, 1, 1], responses[0, 0, 2, 0], responses[1, 1, 0, 2]]
    assert positive == pytest.approx(
        sum(-math.log(1 / (1 + math.exp(-float(r)))) for r in at_peaks) / 3, rel=1e-5
    )
    elsewhere = [float(r) for r in [*responses[0, 1].flatten(), *responses[1, 0].flatten()]]
    assert negative == pytest.approx(
        sum(-math.log(1 - 1 / (1 + math.exp(-r))) for r in elsewhere) / 18, rel=1e-5
    )


def test_count_losses():
    # In range and right, one short; beyond the range, one short of 5 and over it; absent.
    counts = torch.tensor([[4.0, 2.0, 5.0], [5.0, 0.0, 0.0]])
    predicted = torch.tensor([[4.0, 1.0, 4.0], [9.0, -2.0, 3.0]])
    mse, rank = count_losses(predicted, counts, max_count=4)
    assert (mse, rank) == (1 / 2, 1 / 2)
    absent = torch.tensor([[False, False, False], [False, True, False]])
    assert count_losses(predicted, counts, 4, absent)[0] == pytest.approx(5 / 3)


def test_nothing_to_learn_from_is_no_loss():
    responses = torch.randn(1, 2, 3, 3, requires_grad=True)
    none = torch.zeros(1, 2, dtype=torch.bool)
    losses = [
        *spatial_losses(responses, torch.zeros(1, 2, 3, 3, dtype=torch.bool), none),
        *count_losses(responses.sum((2, 3)), torch.zeros(1, 2), 4),
    ]
    assert losses == [0, 0, 0, 0]
    (gradient,) = torch.autograd.grad(sum(losses), responses)
    assert not gradient.any()


def test_gradients_go_where_the_losses_look():
    responses = torch.randn(1, 2, 3, 3, requires_grad=True)
    peaks = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    peaks[0, 0, 1, 2] = True
    positive, negative = spatial_losses(responses, peaks, torch.tensor([[False, True]]))
    (up,) = torch.autograd.grad(positive, responses)
    assert (up != 0).nonzero().tolist() == [[0, 0, 1, 2]]
    assert up[0, 0, 1, 2] < 0
    (down,) = torch.autograd.grad(negative, responses)
    assert not down[0, 0].any()
    assert (down[0, 1] > 0).all()
