"""Self-adjusting smooth L1 against hand-computed numbers, stock smooth L1 and two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.nn import smooth_l1_loss

from wsis_d2.layers import SelfAdjustingSmoothL1


def draw(num_samples, seed, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, num_samples, 4, generator=generator)


def test_two_steps_by_hand():
    loss = SelfAdjustingSmoothL1(1, beta=0.5, momentum=0.9)
    # Errors 0.1 and 0.3: mean 0.2, variance 0.02.
    first = loss(torch.tensor([[1.1], [2.0]]), torch.tensor([[1.0], [2.3]]))
    assert loss.running_mean.item() == pytest.approx(0.9 * 0.5 + 0.1 * 0.2)
    assert loss.running_var.item() == pytest.approx(0.1 * 0.02)
    beta = 0.47 - 0.002
    assert first.item() == pytest.approx(0.1**2 / (2 * beta) + 0.3**2 / (2 * beta), rel=1e-5)
    # Errors 1 and 0: mean 0.5, variance 0.5.
    second = loss(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [0.0]]))
    beta = (0.9 * 0.47 + 0.1 * 0.5) - (0.9 * 0.002 + 0.1 * 0.5)
    assert loss.control_points.item() == pytest.approx(beta)
    assert second.item() == pytest.approx(1 - beta / 2)


def test_many_steps_against_numbers_per_coordinate():
    loss = SelfAdjustingSmoothL1(4, beta=0.11, momentum=0.8)
    mean, variance = [0.11] * 4, [0.0] * 4
    for step in range(6):
        prediction, target = draw(5 + step, step)
        expected = 0.0
        for d in range(4):
            errors = [abs(p - t) for p, t in zip(prediction[:, d].tolist(), target[:, d].tolist())]
            batch_mean = sum(errors) / len(errors)
            batch_variance = sum((e - batch_mean) ** 2 for e in errors) / (len(errors) - 1)
            mean[d] = 0.8 * mean[d] + 0.2 * batch_mean
            variance[d] = 0.8 * variance[d] + 0.2 * batch_variance
            beta = min(max(mean[d] - variance[d], 1e-3), 0.11)
            expected += sum(e**2 / (2 * beta) if e < beta else e - beta / 2 for e in errors)
        assert loss(prediction, target).item() == pytest.approx(expected, rel=1e-4)
    assert loss.running_mean.tolist() == pytest.approx(mean, rel=1e-4)
    assert loss.running_var.tolist() == pytest.approx(variance, rel=1e-3)


def test_fresh_it_is_stock_smooth_l1():
    loss = SelfAdjustingSmoothL1(4, beta=0.11).eval()
    prediction, target = draw(50, 0).requires_grad_()
    stock = smooth_l1_loss(prediction, target, beta=0.11, reduction="sum")
    ours = loss(prediction, target)
    assert torch.allclose(ours, stock)
    gradients = [torch.autograd.grad(x, prediction, retain_graph=True)[0] for x in (ours, stock)]
    assert torch.allclose(*gradients)


def test_control_points_stay_in_bounds():
    loss = SelfAdjustingSmoothL1(2, beta=0.11, momentum=0.0)
    # Large spread in the first coordinate, large even error in the second.
    loss(torch.tensor([[0.0, 3.0], [9.0, 3.0]]), torch.zeros(2, 2))
    assert loss.control_points.tolist() == pytest.approx([1e-3, 0.11])


def test_statistics_are_kept_and_not_learnt_from_too_little():
    loss = SelfAdjustingSmoothL1(4, beta=0.11)
    loss(*draw(20, 1))
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert set(state) == {"running_mean", "running_var"}
    assert not torch.equal(state["running_mean"], torch.full((4,), 0.11))
    loss(*draw(1, 2))
    empty = torch.zeros(0, 4, requires_grad=True)
    total = loss(empty, torch.zeros(0, 4))
    total.backward()
    assert total.item() == 0
    assert empty.grad is not None
    loss.eval()(*draw(20, 3))
    assert all(torch.equal(state[name], value) for name, value in loss.state_dict().items())


def test_half_precision_is_computed_in_float32():
    prediction, target = draw(10, 4)
    full, half = SelfAdjustingSmoothL1(), SelfAdjustingSmoothL1()
    expected = full(prediction.half().float(), target)
    found = half(prediction.half(), target)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def train_one_step(rank, world_size, folder):
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group(
            "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )
    loss = SelfAdjustingSmoothL1()
    for seed, split in enumerate(((7, 5), (12, 0), (1, 1), (1, 0))):
        samples = draw(sum(split), seed)
        start = sum(split[:rank])
        share = samples if world_size == 1 else samples[:, start : start + split[rank]]
        loss(*share)
    torch.save(loss.state_dict(), f"{folder}/{world_size}_{rank}.pth")
    if world_size > 1:
        dist.destroy_process_group()


def test_two_processes_have_the_statistics_of_one(tmp_path):
    train_one_step(0, 1, tmp_path)
    mp.start_processes(train_one_step, (2, str(tmp_path)), nprocs=2, start_method="fork")
    alone, *both = (
        torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("1_0", "2_0", "2_1")
    )
    for state in both:
        assert torch.allclose(state["running_mean"], alone["running_mean"], rtol=1e-5)
        assert torch.allclose(state["running_var"], alone["running_var"], rtol=1e-3)


@pytest.mark.parametrize(
    ("prediction", "target"), [((3, 4), (2, 4)), ((3, 5), (3, 5)), ((3,), (3,)), ((3, 4), (4,))]
)
def test_wrong_shapes(prediction, target):
    with pytest.raises(ValueError, match=r"must both be \(M, 4\)"):
        SelfAdjustingSmoothL1()(torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"momentum": 1.5}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="beta must be"):
        SelfAdjustingSmoothL1(**options)
