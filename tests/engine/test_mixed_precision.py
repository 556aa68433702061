"""Half precision in training: what is computed in it, what is not, and where it is refused."""

import logging

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from wsis_d2.engine import train_loop
from wsis_d2.engine.train_loop import build_train_loop, has_bfloat16

#: On many CPUs emulated: slow, but the same.
bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Regression(nn.Module):
    """y = 2x in one convolution; remembers the precision that it computed in."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        y = self.conv(x)
        self.dtype = y.dtype
        return {"loss": (y.float() - 2 * x).square().mean()} if self.training else y


def _loop(mixed_precision, device="cpu"):
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [torch.randn(4, 1, 8, 8) for _ in range(200)]
    return build_train_loop(model, data, optimizer, device, mixed_precision), model


def _run(loop, steps=200):
    with EventStorage() as storage:
        for loop.iter in range(steps):
            loop.run_step()
        return storage.history("total_loss").latest()


@pytest.mark.skipif(not bfloat16, reason="this CPU has no bfloat16")
def test_a_cpu_trains_in_bfloat16_and_evaluates_in_float32(monkeypatch):
    monkeypatch.setattr(train_loop, "has_bfloat16", lambda: True)
    loop, model = _loop(True)
    assert _run(loop) < 1e-3
    assert model.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert model.conv.weight.item() == pytest.approx(2, abs=0.02)
    assert model.eval()(torch.ones(1, 1, 2, 2)).dtype == torch.float32
    assert set(model.state_dict()) == set(Regression().state_dict())


def test_full_precision_unless_asked_for():
    loop, model = _loop(False)
    assert _run(loop) < 1e-6
    assert model.dtype == torch.float32
    assert type(loop) is SimpleTrainer


def test_a_cpu_without_it_trains_in_full_precision_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(train_loop, "has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING, logger="wsis_d2.engine.train_loop"):
        loop, model = _loop(True)
    assert "needs a GPU or a CPU with instructions for bfloat16" in caplog.text
    assert _run(loop) < 1e-6
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("machine", "onednn_takes_it", "has_instructions", "expected"),
    [
        ("x86_64", True, True, True),
        ("x86_64", True, False, False),  # AVX-512 alone: emulated
        ("x86_64", False, False, False),
        ("aarch64", True, False, True),
        ("aarch64", False, False, False),
    ],
)
def test_emulation_does_not_count(
    machine, onednn_takes_it, has_instructions, expected, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn_takes_it)
    monkeypatch.setattr(
        torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions, raising=False
    )
    assert has_bfloat16() is expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_detectron2s_own_loop():
    assert isinstance(_loop(True, "cuda")[0], AMPTrainer)
