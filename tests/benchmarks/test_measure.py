"""What a benchmark's figures stand for."""

import pytest
import torch

from wsis_d2.benchmarks import measure
from wsis_d2.benchmarks.measure import (
    compare,
    in_fresh_process,
    median_seconds,
    peak_megabytes,
)


@pytest.fixture
def taking(monkeypatch):
    """Make functions that take the given seconds, call by call, on a clock of their own."""
    now = 0.0
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)

    def make(value, *seconds):
        left = list(seconds)

        def function():
            nonlocal now
            now += left.pop(0)
            return torch.tensor([value, 1.0])

        return function, left

    return make


def test_warm_ups_do_not_count(taking):
    (ours, left), (baseline, left_of_baseline) = taking(1.0, 9, 1, 2, 4), taking(1.5, 9, 4, 8, 8)
    figures, expected = compare(ours, baseline, "cpu")
    assert figures == {
        "seconds": 2,
        "baseline_seconds": 8,
        "speedup": 4,  # of 4, 4 and 2
        "max_difference": 0.5,
    }
    assert expected.tolist() == [1.5, 1.0]
    assert left == left_of_baseline == []


def test_a_slow_baseline_runs_once(taking):
    (ours, left), (baseline, _) = taking(1.0, 9, 1, 4, 2), taking(1.0, 64)
    figures, _ = compare(ours, baseline, "cpu", baseline_runs_once=True)
    assert (figures["seconds"], figures["baseline_seconds"], figures["speedup"]) == (2, 64, 32)
    assert left == []


def test_the_median_leaves_out_one_slow_run(taking):
    function, left = taking(1.0, 9, 1, 7, 2)
    assert median_seconds(function, "cpu", 3) == 2
    assert left == []


def _peak_of_a_sum() -> float:
    inputs = torch.ones(32, 1 << 18)  # 33.6 MB
    return peak_megabytes(lambda x: (x + 1).sum(), [torch.ones(1)], [inputs], "cpu")


def test_memory_of_the_inputs_does_not_count():
    # A process that has freed as much before would take no more from the system.
    assert in_fresh_process(_peak_of_a_sum) == pytest.approx(33.6, abs=8)
