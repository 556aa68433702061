"""Checkpoints: what they say of themselves, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

from wsis_d2.errors import UserError
from wsis_d2.files import file_sha256
from wsis_d2.weights.checkpoint import WSISCheckpointer

CLASSES = ["cat", "dog"]


def _net(classes: int = 2) -> torch.nn.Module:
    net = torch.nn.Module()
    net.backbone = torch.nn.Module()
    net.backbone.stem = torch.nn.Conv2d(3, 4, 3)
    net.classifier = torch.nn.Conv2d(4, classes, 1)
    return net


def _save(folder, net=None, **description):
    description = {"meta_architecture": "PRMClassifier", "classes": CLASSES, **description}
    WSISCheckpointer(net or _net(), str(folder), **description).save("model_final", iteration=3)
    return str(folder / "model_final.pth")


def _load(path, net=None, **options):
    options = {
        "meta_architecture": "PRMClassifier",
        "classes": CLASSES,
        "exact": True,
        **options,
    }
    net = net or _net()
    return net, WSISCheckpointer(net, **options).load(path)


def test_round_trip(tmp_path):
    saved = _net()
    loaded, extra = _load(_save(tmp_path, saved))
    assert extra["iteration"] == 3
    for a, b in zip(saved.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(a, b)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"classes": ["cat", "cow"]}, "class 1 is 'cow' instead of 'dog'"),
        ({"classes": ["cat"]}, "1 classes instead of 2"),
        ({"meta_architecture": "CAMClassifier"}, "is a CAMClassifier"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, description, message):
    path = _save(tmp_path, **description)
    with pytest.raises(UserError, match=message) as error:
        _load(path)
    assert path in str(error.value)


def test_shapes_and_missing_weights_are_refused(tmp_path):
    path = _save(tmp_path, _net(3), classes=[])
    with pytest.raises(UserError, match="classifier.weight"):
        _load(path, classes=[])
    torch.save({"model": {"other": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match="lacks 4 of the model's weights"):
        _load(path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        _load(str(tmp_path / "none.pth"))
    for content in (b"", b"not a checkpoint"):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            _load(str(tmp_path / "bad.pth"))


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_file_that_would_run_code_is_refused(tmp_path, suffix):
    path, trace = tmp_path / f"evil.{suffix}", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"model": _RunsCode(str(trace)), "__author__": "x"}))
    with pytest.raises(UserError, match="cannot be read"):
        _load(str(path), exact=False)
    assert not trace.exists()


def test_model_zoo_pickles_load(tmp_path):
    weights = {"stem.weight": np.full((4, 3, 3, 3), 2.0, np.float32)}
    path = tmp_path / "R-50.pkl"
    zoo_file = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(zoo_file))
    net, _ = _load(str(path), exact=False)
    assert (net.backbone.stem.weight == 2).all()


def test_another_methods_checkpoint_starts_the_backbone_alone(tmp_path):
    classifier = _net()
    path = _save(tmp_path, classifier)
    detector = torch.nn.Module()
    detector.backbone = torch.nn.Module()
    detector.backbone.bottom_up = _net().backbone
    detector.classifier = torch.nn.Conv2d(4, 2, 1)
    before = detector.classifier.weight.clone()
    _load(path, detector, meta_architecture="GeneralizedRCNN", exact=False)
    assert torch.equal(detector.backbone.bottom_up.stem.weight, classifier.backbone.stem.weight)
    assert torch.equal(detector.classifier.weight, before)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    # NIST's example for SHA-256.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(str(tmp_path / "f")) == expected
