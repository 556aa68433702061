"""Weights of other programs: the same network gives the same features under the model's names."""

from __future__ import annotations

import hashlib
import logging
import os

import pytest
import torch
import torchvision
from iopath.common.file_io import get_cache_dir
from torch import nn

from wsis_d2.engine.checkpoint import WSISCheckpointer
from wsis_d2.engine.pretrained_weights import convert_to_timm
from wsis_d2.errors import UserError
from wsis_d2.weight_files import PACKAGED_FILES

timm = pytest.importorskip("timm")


def _randomise(network: nn.Module) -> nn.Module:
    """Values that tell one weight from the other, normalisation included."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            if value.dim() > 1:
                nn.init.kaiming_normal_(value)
            else:
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.5)
    return network.eval()


def _model(name: str, fpn: bool = False, **options) -> nn.Module:
    """A classifier on a timm network, or one behind a pyramid, named as the real models are."""
    model = nn.Module()
    model.backbone = nn.Module()
    holder = model.backbone
    if fpn:
        model.backbone.fpn_lateral5 = nn.Conv2d(8, 8, 1)
        holder = model.backbone.bottom_up = nn.Module()
    holder.network = timm.create_model(name, num_classes=0, **options)
    model.classifier = nn.Conv2d(8, 3, 1)
    return model.eval()


def _load(model: nn.Module, path) -> None:
    WSISCheckpointer(model, meta_architecture="CAMClassifier").load(str(path))


@pytest.fixture
def messages(caplog):
    """What was logged, however the loggers were set up before."""
    logger = logging.getLogger("wsis_d2")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.propagate = True
    with caplog.at_level(logging.INFO, "wsis_d2"):
        yield lambda: " ".join(record.getMessage() for record in caplog.records)
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_torchvisions_mobilenet_gives_the_same_features(tmp_path, messages):
    reference = _randomise(torchvision.models.mobilenet_v2())
    torch.save(reference.state_dict(), tmp_path / "mobilenet.pth")
    image = torch.rand(1, 3, 64, 96)
    for model in (_model("mobilenetv2_100"), _model("mobilenetv2_100", fpn=True)):
        _load(model, tmp_path / "mobilenet.pth")
        holder = (
            model.backbone.bottom_up if hasattr(model.backbone, "bottom_up") else model.backbone
        )
        expected = reference.features(image)
        assert torch.equal(holder.network.forward_features(image), expected)
        assert expected.std() > 0
    assert "loaded 260 of the 260 weights of backbone.network" in messages()
    assert "not used: classifier.weight, classifier.bias" in messages()


def test_the_published_mobilenet_gives_torchvisions_outputs():
    """Only where the file was fetched before."""
    name = "ImageNetPretrained/mobilenetv2_100"
    file = PACKAGED_FILES[name]
    path = os.path.join(get_cache_dir(), "wsis_d2", os.path.dirname(name), file.base_name)
    if not os.path.isfile(path):
        pytest.skip(f"wsis_d2://{name} is not in the cache")
    with open(path, "rb") as opened:
        assert hashlib.sha256(opened.read()).hexdigest() == file.sha256
    weights = torch.load(path, weights_only=True)
    reference = torchvision.models.mobilenet_v2()
    reference.load_state_dict(weights)
    network = timm.create_model("mobilenetv2_100")
    network.load_state_dict(convert_to_timm(weights, network))  # strict: all 314
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(image), reference.eval()(image))


def _efficientnet_pytorch_names(blocks: list[bool]) -> list[str]:
    """Names of EfficientNet-PyTorch in the order of its state dict.

    Args:
        blocks: whether each has an expansion.
    """
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{n}" for n in norm)]
    for i, expands in enumerate(blocks):
        pairs = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for conv, bn in ([("_expand_conv", "_bn0")] if expands else []) + pairs:
            names += [f"_blocks.{i}.{conv}.weight", *(f"_blocks.{i}.{bn}.{n}" for n in norm)]
    names += ["_conv_head.weight", *(f"_bn1.{n}" for n in norm), "_fc.weight", "_fc.bias"]
    return names


@pytest.mark.parametrize(("name", "blocks"), [("lite0", 16), ("lite1", 21), ("lite2", 21)])
def test_efficientnet_names(name, blocks):
    """Both programs list the same layers in the same order, so order is an independent table."""
    network = _randomise(timm.create_model(f"tf_efficientnet_{name}"))
    own = network.state_dict()
    theirs = _efficientnet_pytorch_names([i > 0 for i in range(blocks)])
    assert len(theirs) == len(own)
    converted = convert_to_timm(dict(zip(theirs, own.values())), network)
    assert converted.keys() == own.keys()
    assert all(converted[key] is own[key] for key in own)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth fits no weight of the model"):
        _load(_model("mobilenetv2_100"), tmp_path / "other.pth")
