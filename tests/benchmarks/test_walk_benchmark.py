"""The benchmarks of the random walk on small maps."""

import torch

from wsis_d2.benchmarks.walk import walk_against_dense, walk_alone


def test_walks_are_compared():
    threads = torch.get_num_threads()
    result = walk_against_dense("cpu", 2, 12, 10)
    assert result["speedup"] == result["baseline_seconds"] / result["seconds"]
    assert 0 < result["relative_error"] < 1e-3
    assert torch.get_num_threads() == threads


def test_memory_of_a_walk_is_linear():
    result = walk_alone("cpu", 10, 125, 94)
    assert 0 < result["seconds"] < 10
    # The matrix alone would take 552.
    assert 1 < result["peak_megabytes"] < 100
