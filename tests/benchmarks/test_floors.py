"""What counts as the work of a stage, and the least time that it takes."""

import numpy as np
import pytest
import torch
from torch import nn

from wsis_d2.benchmarks.floors import (
    Machine,
    affinity_work,
    count_work,
    crf_work,
    product_work,
    traffic,
    walk_work,
)
from wsis_d2.benchmarks.stages import Work
from wsis_d2.layers import CRFSettings, boundary_affinity, peak_response_maps, random_walk
from wsis_d2.layers.stencil import SparseStencil


def machine_of(**rates: float) -> Machine:
    """A machine that is known to do so many operations or bytes in one second."""
    machine = Machine()
    for name, rate in rates.items():
        kind = "copy, cpu" if name == "copy" else f"matrix product, {name}, cpu"
        machine.measured[kind] = (rate, 1.0)
    return machine


def test_the_slower_of_arithmetic_and_copying_is_the_floor():
    machine = machine_of(float32=100.0, bfloat16=400.0, copy=10.0)
    flops = {torch.float32: 100.0, torch.bfloat16: 200.0}
    assert machine.floor_seconds(Work(flops, 5.0), "cpu") == 1.5
    assert machine.floor_seconds(Work(flops, 30.0), "cpu") == 3.0
    assert machine.floor_seconds(Work({}, 20.0), "cpu") == 2.0


def test_a_machine_is_measured_once_and_only_where_it_is_asked():
    machine = Machine(quick=True)
    assert machine.figures() == []
    rate = machine.flops_per_second("cpu", torch.float32)
    assert machine.flops_per_second("cpu", torch.float32) == rate
    (figures,) = machine.figures()
    assert figures["name"] == "matrix product, float32, cpu"
    assert figures["seconds"] * rate == pytest.approx(2 * 128**3)
    assert figures["giga_per_second"] == rate / 1e9


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_are_counted_forward_and_backward(groups):
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    once = 2 * (2 * 5 * 6 * 8) * (9 * 8 // groups)  # outputs times what each is summed over
    forward = count_work(conv, x)
    assert forward.flops == {torch.float32: once}
    size, weights = x.nbytes, conv.weight.nbytes
    assert forward.bytes == 2 * size + weights
    both = count_work(lambda x: conv(x).sum().backward(), x)
    assert both.flops == {torch.float32: 3 * once}
    # Backward reads the gradient, the input and the weights, and writes two gradients.
    assert both.bytes == forward.bytes + 3 * size + 2 * weights


def test_each_precision_is_counted_by_itself():
    a = torch.randn(4, 5)
    work = count_work(lambda a: (a @ a.T, a.bfloat16() @ a.bfloat16().T), a)
    assert work.flops == {torch.float32: 160, torch.bfloat16: 160}
    assert work.bytes == 4 * (20 + 20 + 16) + 2 * (20 + 20 + 16)


def test_peak_backpropagation_is_counted_peak_by_peak():
    network = nn.Conv2d(3, 2, 3, padding=1)
    image = torch.rand(1, 3, 8, 8)
    peaks = torch.tensor([[0, 0, 2, 2], [0, 1, 4, 4], [0, 1, 6, 3]])

    def flops(peaks):
        work = count_work(lambda p: peak_response_maps(network, image, p), peaks)
        return work.flops[torch.float32]

    conv = 2 * 8 * 8 * 9 * 3 * 2
    assert flops(peaks) == flops(peaks[:1]) + 2 * conv


def test_the_walk_counts_the_products_that_it_makes(monkeypatch):
    calls = []
    for name in ("product", "recur"):
        method = getattr(SparseStencil, name)
        monkeypatch.setattr(
            SparseStencil, name, lambda *args, method=method: calls.append(1) or method(*args)
        )
    affinity = boundary_affinity(torch.rand(9, 7), 3)
    random_walk(torch.rand(4, 9, 7), affinity, num_steps=64, tolerance=1e-3)
    work = walk_work(4, 9, 7, radius=3, num_steps=64, tolerance=1e-3)
    num_pairs = len(affinity.values)
    assert work.flops[torch.float32] == len(calls) * 4 * 63 * 2 * (2 * num_pairs + 3)
    assert work.bytes == affinity.values.nbytes + 2 * 4 * 63 * 4


def test_affinities_count_the_maxima_that_they_take(monkeypatch):
    maximum, calls = torch.maximum, []
    monkeypatch.setattr(torch, "maximum", lambda *args: calls.append(1) or maximum(*args))
    affinity = boundary_affinity(torch.rand(12, 12), 5)
    work = affinity_work(12, 12, 5)
    # And for each pair the difference to 1.
    assert work.flops[torch.float32] == 144 * (len(calls) + len(affinity.values))
    assert work.bytes == affinity.values.nbytes + 4 * 144


def test_the_crf_grows_with_pixels_labels_and_iterations():
    one = crf_work(10, 12, 2, CRFSettings(num_iters=1))
    assert one.flops == {torch.float32: 120 * 2 * (4 * 9 + 10)}
    assert one.bytes == 120 * (2 * 9 * 8 + 2 * 2 * 4)
    ten = crf_work(10, 12, 2, CRFSettings(num_iters=10))
    assert ten == Work({torch.float32: 10 * one.flops[torch.float32]}, 10 * one.bytes)


def test_products_count_as_pytorch_counts_them():
    a, b = torch.rand(3, 50), torch.rand(50, 7)
    assert product_work(3, 50, 7) == count_work(lambda a: a @ b, a)
    assert product_work(3, 50, 7, count=3).bytes == 3 * product_work(3, 50, 7).bytes


def test_traffic_is_that_of_arrays_wherever_they_stand():
    values = [torch.zeros(2, 3), (np.zeros(5), {"a": np.zeros(1, bool)})]
    assert traffic(*values) == Work({}, 24 + 40 + 1)
