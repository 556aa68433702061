"""The benchmarks of the losses and of peak backpropagation, on small maps."""

from wsis_d2.benchmarks import losses
from wsis_d2.benchmarks.peaks import peak_backpropagation

FIGURES = ["name", "seconds", "baseline_seconds", "speedup", "max_difference"]


def test_losses_and_gradients_are_those_of_the_tables(monkeypatch):
    monkeypatch.setattr(losses, "in_fresh_process", lambda function, *args: function(*args))
    (result,) = losses.loss_benchmarks("cpu", size=24, radius=4, batch=2)
    assert list(result) == [*FIGURES, "peak_megabytes", "baseline_peak_megabytes"]
    assert result["name"] == "IRNet losses and gradients, 2 x 24 x 24, radius 4, cpu"
    assert result["max_difference"] < 1e-5


def test_batches_of_peaks_give_the_maps_of_single_ones():
    result = peak_backpropagation("cpu", 32, 4)
    assert list(result) == FIGURES
    assert result["name"].startswith("peak backpropagation, ")
    assert result["max_difference"] < 1e-5
