"""Dilated convolutions by phases beside PyTorch's: the same results."""

from wsis_d2.benchmarks.convolutions import dilated_benchmarks


def test_both_ways_agree():
    small, large = dilated_benchmarks(batch=1)
    assert "3 x 3, dilation 2" in small["name"]
    assert "5 x 5, dilation 2" in large["name"]
    for figures in (small, large):
        assert figures["seconds"] > 0
        assert figures["baseline_seconds"] > 0
        # Of gradients of hundreds.
        assert figures["max_difference"] < 5e-3
