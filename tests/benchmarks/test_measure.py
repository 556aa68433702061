"""What a benchmark's figures stand for."""

import pytest
import torch

from wsis_d2.benchmarks import measure
from wsis_d2.benchmarks.measure import (
    Timing,
    compare,
    fastest_seconds,
    in_fresh_process,
    mean_timing,
    median_seconds,
    peak_megabytes,
    peak_megabytes_of_run,
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


def test_inputs_take_turns_and_each_counts_by_its_median(taking):
    function, left = taking(1.0, 1, 10, 2, 60, 9, 20)
    seen = []

    def run(x):
        seen.append(x)
        return function()

    timing, num_runs = mean_timing(run, ["a", "b"], "cpu", budget=1000, least=3, most=6)
    assert (timing.seconds, num_runs) == ((2 + 20) / 2, 6)
    assert seen == ["a", "b"] * 3
    assert left == []


@pytest.mark.parametrize(("budget", "runs"), [(0, 3), (5.5, 6), (1000, 8)])
def test_runs_end_with_the_budget(taking, budget, runs):
    function, left = taking(1.0, *[1] * 8)
    _, num_runs = mean_timing(lambda _: function(), [0], "cpu", budget, least=3, most=8)
    assert num_runs == runs
    assert len(left) == 8 - runs


def test_the_fastest_run_says_what_a_machine_can_do(taking, monkeypatch):
    monkeypatch.setattr(Timing, "undisturbed", lambda self, device: self.seconds)
    function, _ = taking(1.0, 1, 5, 3, 4)
    assert fastest_seconds(function, "cpu", num_runs=3) == 3


@pytest.mark.parametrize(("threads", "seconds"), [(1, 2.0), (2, 9.0)])
def test_on_one_thread_what_others_took_does_not_count(monkeypatch, threads, seconds):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert Timing(9.0, 2.0).undisturbed("cpu") == seconds
    assert Timing(9.0, 2.0).undisturbed("cuda") == 9.0


def test_memory_that_was_freed_before_counts_again():
    def run():
        return (torch.ones(32, 1 << 18) + 1).sum()  # 2 x 33.6 MB

    run()
    assert peak_megabytes_of_run(run, "cpu") == pytest.approx(67.1, abs=12)


def _peak_of_a_sum() -> float:
    inputs = torch.ones(32, 1 << 18)  # 33.6 MB
    return peak_megabytes(lambda x: (x + 1).sum(), [torch.ones(1)], [inputs], "cpu")


def test_memory_of_the_inputs_does_not_count():
    # A process that has freed as much before would take no more from the system.
    assert in_fresh_process(_peak_of_a_sum) == pytest.approx(33.6, abs=8)
