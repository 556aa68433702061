"""Weights of other programs: the same network gives the same features under the model's names."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from iopath.common.file_io import get_cache_dir
from torch import nn

from wsis_d2 import add_wsis_config
from wsis_d2.engine.setup import load_config
from wsis_d2.errors import UserError
from wsis_d2.modeling import build_wsis_resnet_backbone
from wsis_d2.weights.addresses import PACKAGED_FILES
from wsis_d2.weights.checkpoint import WSISCheckpointer
from wsis_d2.weights.pretrained import (
    check_pixel_statistics,
    convert_to_timm,
    pretrained_pixel_stats,
)

timm = pytest.importorskip("timm")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


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


def _resnet_backbone() -> nn.Module:
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STRIDES = (2, 2, 2, 2)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    model = nn.Module()
    model.backbone = build_wsis_resnet_backbone(cfg, ShapeSpec(channels=3))
    return model.eval()


def _resnet_features(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return nn.Sequential(*list(network.children())[:-2])(image)


@pytest.mark.parametrize("container", [None, "state_dict", "teacher"])
def test_torchvisions_resnet_in_detectron2s_and_timms(tmp_path, container):
    reference = _randomise(torchvision.models.resnet18())
    weights = reference.state_dict()
    if container == "state_dict":  # of DDP
        weights = {"state_dict": {f"module.{k}": w for k, w in weights.items()}, "epoch": 3}
    if container == "teacher":
        weights = {f"module.backbone.{k}": w for k, w in weights.items() if "fc" not in k}
        student = {k: torch.zeros_like(w) for k, w in weights.items()}
        head = {"module.head.last_layer.weight": torch.zeros(3)}
        weights = {"student": student, "teacher": weights | head, "epoch": 3}
    torch.save(weights, tmp_path / "resnet18.pth")
    image = torch.rand(1, 3, 64, 64)
    expected = _resnet_features(reference, image)
    model = _resnet_backbone()
    _load(model, tmp_path / "resnet18.pth")
    torch.testing.assert_close(model.backbone(image)["res5"], expected)
    model = _model("resnet18")
    _load(model, tmp_path / "resnet18.pth")
    assert torch.equal(model.backbone.network.forward_features(image), expected)


def test_detectron2s_pickle_in_timms_resnet(tmp_path):
    backbone = _randomise(_resnet_backbone()).backbone
    weights = {k: w.numpy() for k, w in backbone.state_dict().items()}
    zoo_file = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(zoo_file))
    model = _model("resnet18")
    _load(model, tmp_path / "R-18.pkl")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        model.backbone.network.forward_features(image), backbone(image)["res5"]
    )


def test_caffe2s_resnet_has_other_strides_than_timms(tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"conv1_w": np.zeros((64, 3, 7, 7))}))
    with pytest.raises(UserError, match="build_wsis_resnet_backbone"):
        _load(_model("resnet18"), tmp_path / "R-50.pkl")


def _vit(size: int, name: str = "vit_tiny_patch16_224") -> nn.Module:
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": size}
    return timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)


def test_dinos_training_checkpoint_gives_its_teacher(tmp_path):
    teacher = _randomise(_vit(64))
    weights = teacher.state_dict()
    checkpoint = {
        "student": {f"module.backbone.{k}": torch.zeros_like(w) for k, w in weights.items()},
        "teacher": {f"backbone.{k}": w for k, w in weights.items()}
        | {"head.mlp.0.weight": torch.zeros(2, 48)},
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(arch="vit_tiny", lr=0.0005),
        "epoch": 100,
    }
    torch.save(checkpoint, tmp_path / "dino_full_checkpoint.pth")
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.network = _vit(64).eval()
    _load(model, tmp_path / "dino_full_checkpoint.pth")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.backbone.network(image), teacher(image))


def test_dinov2s_own_names_and_grid(tmp_path):
    """Register tokens, a mask token, and position embeddings that count the class token."""
    name = "vit_small_patch14_reg4_dinov2"
    reference = _randomise(_vit(70, name))
    weights = dict(reference.state_dict())
    weights["register_tokens"] = weights.pop("reg_token")
    weights["mask_token"] = torch.zeros(1, 48)
    # There the class token has an embedding of its own: split what timm adds up.
    of_class = torch.full((1, 1, 48), 0.25)
    weights["pos_embed"] = torch.cat([of_class, weights["pos_embed"]], 1)
    weights["cls_token"] = weights["cls_token"] - of_class
    torch.save(weights, tmp_path / "dinov2.pth")
    same, finer = nn.Module(), nn.Module()
    for model, size in ((same, 70), (finer, 112)):
        model.backbone = nn.Module()
        model.backbone.network = _vit(size, name).eval()
        _load(model, tmp_path / "dinov2.pth")
    image = torch.rand(1, 3, 70, 70)
    torch.testing.assert_close(same.backbone.network(image), reference(image))
    # A grid of 5 x 5 becomes one of 8 x 8.
    grid = reference.pos_embed.view(1, 5, 5, 48).movedim(3, 1)
    expected = F.interpolate(grid, size=(8, 8), mode="bicubic", antialias=True)
    found = finer.backbone.network.pos_embed.view(1, 8, 8, 48).movedim(3, 1)
    torch.testing.assert_close(found, expected)


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    reference = _randomise(timm.create_model("mobilenetv2_035"))
    save_file(reference.state_dict(), str(tmp_path / "model.safetensors"))
    model = _model("mobilenetv2_035")
    _load(model, tmp_path / "model.safetensors")
    image = torch.rand(1, 3, 64, 64)
    expected = reference.forward_features(image)
    assert torch.equal(model.backbone.network.forward_features(image), expected)
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match="cannot be read"):
        _load(model, tmp_path / "bad.safetensors")


def test_what_does_not_fit_is_listed(tmp_path, messages):
    weights = _randomise(timm.create_model("mobilenetv2_035")).state_dict()
    del weights["conv_stem.weight"]
    weights["bn1.weight"] = torch.ones(5)
    weights["neck.weight"] = torch.ones(1)
    torch.save(weights, tmp_path / "some.pth")
    model = _model("mobilenetv2_035")
    before = model.backbone.network.conv_stem.weight.clone()
    _load(model, tmp_path / "some.pth")
    text = messages()
    assert "bn1.weight (5,) instead of (16,)" in text
    assert "not used: classifier.weight, classifier.bias, neck.weight" in text
    assert "loaded 258 of the 260 weights" in text
    assert "backbone.network.conv_stem.weight, backbone.network.bn1.weight" in text
    assert torch.equal(model.backbone.network.conv_stem.weight, before)


def test_a_timm_file_does_not_reach_the_head(tmp_path):
    """timm's and our classifier have one name; here even one shape."""
    weights = timm.create_model("resnet18").state_dict()
    weights["classifier.weight"] = torch.full((3, 8, 1, 1), 7.0)
    torch.save(weights, tmp_path / "timm.pth")
    model = _model("resnet18")
    model.classifier = nn.Conv2d(8, 3, 1)
    _load(model, tmp_path / "timm.pth")
    assert torch.equal(model.backbone.network.conv1.weight, weights["conv1.weight"])
    assert not (model.classifier.weight == 7).any()


@pytest.mark.parametrize(
    ("config", "backbone"),
    [
        ("Base-IRNet.yaml", "build_timm_backbone"),
        ("Base-MaskRCNN.yaml", "build_timm_fpn_backbone"),
        ("Base-SemSeg-FPN.yaml", "build_timm_fpn_backbone"),
    ],
)
def test_a_classifier_starts_the_other_stages(tmp_path, config, backbone):
    def build(config: str, backbone: str) -> tuple[str, nn.Module]:
        options = (
            "MODEL.DEVICE cpu MODEL.TIMM.NAME mobilenetv2_035 MODEL.CLASSIFIER.NUM_CLASSES 3 "
            f"MODEL.ROI_HEADS.NUM_CLASSES 3 MODEL.SEM_SEG_HEAD.NUM_CLASSES 4 "
            f"DATASETS.TRAIN () MODEL.ROI_BOX_HEAD.FC_DIM 8 MODEL.BACKBONE.NAME {backbone}"
        )
        cfg = load_config(str(CONFIGS / config), options.split())
        return cfg.MODEL.META_ARCHITECTURE, build_model(cfg)

    def network(model: nn.Module) -> dict:
        return getattr(model.backbone, "bottom_up", model.backbone).network.state_dict()

    def move(source: tuple[str, nn.Module], target: tuple[str, nn.Module]) -> None:
        name = source[0]
        WSISCheckpointer(source[1], str(tmp_path), meta_architecture=name).save(name)
        checkpointer = WSISCheckpointer(target[1], meta_architecture=target[0])
        checkpointer.load(str(tmp_path / f"{name}.pth"))
        expected = network(source[1])
        assert all(torch.equal(w, expected[k]) for k, w in network(target[1]).items())

    classifier = build("Base-CAM.yaml", "build_timm_backbone")
    _randomise(classifier[1])
    for counter in (k for k in network(classifier[1]) if k.endswith("num_batches_tracked")):
        network(classifier[1])[counter].fill_(5)
    other = build(config, backbone)
    move(classifier, other)
    # And back, from below the pyramid too.
    _randomise(other[1])
    move(other, classifier)


def test_pixel_statistics():
    imagenet = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB"
    half = (127.5,) * 3, (127.5,) * 3, "RGB"
    for weights, expected in {
        "wsis_d2://ImageNetPretrained/mobilenetv2_100": imagenet,
        "some/folder/mobilenet_v2-b0353104.pth": imagenet,
        "wsis_d2://ImageNetPretrained/tf_efficientnet_lite2": half,
        "timm://tf_efficientnet_lite0.in1k": half,
        "timm://vit_small_patch14_dinov2": imagenet,
        "tf_efficientnet_lite0": half,
        "torchvision://ResNet50_Weights.IMAGENET1K_V2": imagenet,
        "detectron2://ImageNetPretrained/torchvision/R-50.pkl": imagenet,
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl": (imagenet[0][::-1], (1.0,) * 3, "BGR"),
        "output/model_final.pth": None,
        "": None,
        "timm://none_such": None,
    }.items():
        assert pretrained_pixel_stats(weights) == expected, weights


@pytest.mark.parametrize(
    ("options", "agrees"),
    [
        ([], True),
        (["MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]"], True),  # one rounded table or another
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], False),
        (["MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"], False),
        (["INPUT.FORMAT", "BGR"], False),
        (["MODEL.WEIGHTS", "wsis_d2://ImageNetPretrained/tf_efficientnet_lite0"], False),
        (["INPUT.FORMAT", "BGR", "MODEL.WEIGHTS", "own.pth"], True),  # not known
    ],
)
def test_a_mismatch_of_pixel_statistics_is_a_warning_that_names_both(options, agrees, messages):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = "wsis_d2://ImageNetPretrained/mobilenetv2_100"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    cfg.merge_from_list(options)
    assert check_pixel_statistics(cfg) == agrees
    text = messages()
    assert bool(text) != agrees
    if not agrees:
        assert str(list(cfg.MODEL.PIXEL_MEAN)) in text
        assert f'INPUT.FORMAT "{cfg.INPUT.FORMAT}"' in text
        assert 'INPUT.FORMAT "RGB"' in text


def test_training_checks_the_pixel_statistics(monkeypatch):
    train = importlib.import_module("wsis_d2.engine.stages.train")

    class CheckedError(Exception):
        pass

    def check(cfg):
        raise CheckedError

    monkeypatch.setattr(train, "_check_datasets", lambda cfg: None)
    monkeypatch.setattr(train, "check_pixel_statistics", check)
    with pytest.raises(CheckedError):
        train.train(get_cfg())
