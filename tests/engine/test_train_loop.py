"""Trainings that are sent SIGTERM, diverge or fill the disk, with a network of one weight."""

import os
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks

from wsis_d2.engine.train_loop import insert_stops, stop_at_divergence
from wsis_d2.errors import UserError
from wsis_d2.processes import Terminated
from wsis_d2.weights.checkpoint import WSISCheckpointer

NUM_ITERATIONS = 6


class _Net(torch.nn.Module):
    """Learns the numbers that images are; ``at`` has what else happens on some of them."""

    def __init__(self, at):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at = at

    def forward(self, batch):
        loss = sum((self.weight - x["number"]) ** 2 for x in batch)
        for x in batch:
            loss = self.at.get(x["number"], lambda loss: loss)(loss)
        return {"loss_number": loss, "loss_other": 0.1 * loss}


class _Evaluations(list):
    def __call__(self):
        self.append(True)
        return {}


class _Batches:
    """Two images for each iteration from ``start`` on, which may be set until the first is asked
    for."""

    start = 0

    def __iter__(self):
        for i in range(self.start, NUM_ITERATIONS):
            yield [{"file_name": f"{2 * i + j}.jpg", "number": 2 * i + j} for j in range(2)]


def _train(folder, at, period=100, resume=False, evaluations=None):
    """Two images in each iteration, 0 and 1 in the first; returns the last weight."""
    folder.mkdir(exist_ok=True)
    net = _Net(at)
    batches = _Batches()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loop = SimpleTrainer(net, batches, optimizer)
    checkpointer = WSISCheckpointer(net, str(folder), trainer=loop)
    stop_at_divergence(loop, checkpointer)
    registered = [
        hooks.PeriodicCheckpointer(checkpointer, period),
        hooks.EvalHook(0, evaluations if evaluations is not None else dict),
    ]
    insert_stops(registered, checkpointer)
    loop.register_hooks(registered)
    checkpointer.resume_or_load("", resume=resume)
    batches.start = loop.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    loop.train(batches.start, NUM_ITERATIONS)
    return net.weight.item()


def _checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.pth*"))


def _terminate(loss):
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def _not_a_number(loss):
    return loss * float("nan")


def _infinite_gradient(loss):
    return loss + (0 * loss).sqrt()  # which is 0


def test_sigterm_ends_training_with_a_checkpoint_from_which_it_goes_on(tmp_path):
    whole = _train(tmp_path / "whole", {})
    before = signal.getsignal(signal.SIGTERM)
    evaluations = _Evaluations()
    with pytest.raises(Terminated):
        _train(tmp_path / "parts", {5: _terminate}, evaluations=evaluations)
    assert signal.getsignal(signal.SIGTERM) is before
    assert _checkpoints(tmp_path / "parts") == ["model_0000002.pth"]
    assert not evaluations
    assert _train(tmp_path / "parts", {}, resume=True) == whole


def test_sigterm_in_the_last_iteration_leaves_the_whole_training(tmp_path):
    whole = _train(tmp_path / "whole", {})
    with pytest.raises(Terminated):
        _train(tmp_path / "parts", {11: _terminate})
    assert _checkpoints(tmp_path / "parts") == ["model_final.pth"]
    assert _train(tmp_path / "parts", {}, resume=True) == whole


def test_a_run_killed_before_its_last_file_has_it_when_it_goes_on(tmp_path):
    whole = _train(tmp_path, {}, period=2)
    final, last = tmp_path / "model_final.pth", tmp_path / "last_checkpoint"
    content = final.read_bytes()
    # As a kill leaves them; or a run of before has another file of that name.
    for left in (final.unlink, lambda: final.write_bytes(b"of before")):
        left()
        last.write_text("model_0000005.pth")
        assert _train(tmp_path, {}, period=2, resume=True) == whole
        assert final.read_bytes() == content
        assert last.read_text() == "model_final.pth"


@pytest.mark.parametrize(
    ("period", "last"), [(100, "there is no checkpoint yet"), (2, "good checkpoint is '{folder}/")]
)
def test_a_loss_that_is_not_finite_stops_training(tmp_path, period, last):
    with pytest.raises(UserError) as error:
        _train(tmp_path, {9: _not_a_number}, period)
    message = str(error.value)
    assert "loss_number nan, loss_other nan in iteration 4 on images 8.jpg, 9.jpg;" in message
    assert last.format(folder=tmp_path) in message
    expected = [f"model_000000{i}.pth" for i in (1, 3) if period == 2]
    assert _checkpoints(tmp_path) == expected


def test_boxes_that_are_not_finite_stop_training(tmp_path):
    """Detectron2's region proposals find them before any loss is computed."""

    def no_boxes(_):
        raise FloatingPointError(
            "Predicted boxes or scores contain Inf/NaN. Training has diverged."
        )

    with pytest.raises(UserError) as error:
        _train(tmp_path, {9: no_boxes}, 2)
    message = str(error.value)
    assert "boxes or scores contain Inf/NaN in iteration 4 on images 8.jpg, 9.jpg;" in message
    assert f"last good checkpoint is '{tmp_path}/model_0000003.pth'" in message


def test_the_last_good_checkpoint_of_a_resumed_run_is_the_one_it_began_with(tmp_path):
    with pytest.raises(Terminated):
        _train(tmp_path, {5: _terminate})
    with pytest.raises(UserError, match="last good checkpoint is '.*/model_0000002.pth'"):
        _train(tmp_path, {9: _not_a_number}, resume=True)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    """The last iteration's loss was still finite."""
    with pytest.raises(
        UserError, match="'weight' holds numbers that are not finite after"
    ) as error:
        _train(tmp_path, {11: _infinite_gradient}, 2)
    assert "iteration 5; the last good checkpoint is '" in str(error.value)
    assert _checkpoints(tmp_path) == ["model_0000001.pth", "model_0000003.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


@contextmanager
def small_files():
    """No file may be as large as a checkpoint: as on a full disk, writing it fails on the way.

    Not longer than it must: what pytest prints may be a file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_checkpoint_that_cannot_be_written_leaves_those_that_are_there(tmp_path):
    with pytest.raises(Terminated):
        _train(tmp_path, {5: _terminate})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with small_files(), pytest.raises(UserError) as error:
        _train(tmp_path, {}, resume=True)
    message = str(error.value)
    assert f"checkpoint '{tmp_path}/model_final.pth' cannot be written (File too large)" in message
    assert f"the last good checkpoint is '{tmp_path}/model_0000002.pth'" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_checkpoint_is_named_when_training_goes_on(tmp_path):
    with pytest.raises(Terminated):
        _train(tmp_path, {5: _terminate})
    os.truncate(tmp_path / "model_0000002.pth", 500)
    with pytest.raises(UserError, match="model_0000002.pth cannot be read .*/last_checkpoint'"):
        _train(tmp_path, {}, resume=True)
