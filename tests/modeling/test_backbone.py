"""The ResNet builder against Detectron2's own, weights included."""

import math
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import nn

from wsis_d2 import add_wsis_config
from wsis_d2.modeling import build_wsis_resnet_backbone

IMAGE = ShapeSpec(channels=3)
SLIM = ["STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 16, "WIDTH_PER_GROUP", 4]


def config(*resnet_options, freeze_at=0):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.merge_from_list(list(resnet_options))
    return cfg


def both(cfg):
    torch.manual_seed(0)
    ours, stock = build_wsis_resnet_backbone(cfg, IMAGE), build_resnet_backbone(cfg, IMAGE)
    stock.load_state_dict(ours.state_dict())
    return ours.eval(), stock.eval()


def shapes(module):
    return {k: v.shape for k, v in module.state_dict().items()}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "FixedBN", "GN"])
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_parameters_have_detectron2s_names_and_shapes(depth, norm):
    widths = SLIM if depth >= 50 else ["RES2_OUT_CHANNELS", 64]
    if norm == "GN":  # 32 groups at least
        widths = ["RES2_OUT_CHANNELS", 64 if depth < 50 else 128, "WIDTH_PER_GROUP", 32]
    cfg = config("DEPTH", depth, "NORM", norm, *widths)
    with torch.device("meta"):
        ours = build_backbone(cfg)
        if norm == "FixedBN":  # ours: parameters of batch normalisation
            cfg.MODEL.RESNETS.NORM = "BN"
        stock = build_resnet_backbone(cfg, IMAGE)
    assert shapes(ours) == shapes(stock)
    assert ours.output_shape() == stock.output_shape()


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_with_default_strides_it_is_detectron2s_resnet(stride_in_1x1):
    ours, stock = both(config(*SLIM, "STRIDE_IN_1X1", stride_in_1x1, "NUM_GROUPS", 2))
    image = torch.randn(1, 3, 65, 40)
    expected = stock(image)
    assert all(torch.equal(feature, expected[name]) for name, feature in ours(image).items())


def test_stride_16_changes_res5_alone():
    ours, stock = both(config(*SLIM, "STRIDES", [2, 2, 2, 1]))
    image = torch.randn(2, 3, 64, 96)
    found, expected = ours(image), stock(image)
    for name in ("res2", "res3", "res4"):
        assert torch.equal(found[name], expected[name])
    assert found["res5"].shape == (2, 128, 4, 6)
    assert expected["res5"].shape == (2, 128, 2, 3)


def test_dilation_of_res5_is_detectron2s():
    cfg = config(*SLIM, "STRIDES", [2, 2, 2, 1], "DILATIONS", [1, 1, 1, 2])
    stock_cfg = config(*SLIM, "RES5_DILATION", 2)
    ours, stock = build_backbone(cfg).eval(), build_resnet_backbone(stock_cfg, IMAGE).eval()
    stock.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(image)["res5"], stock(image)["res5"])


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(
    ("strides", "max_pool", "expected"),
    [
        ([2, 2, 2, 2], True, [4, 4, 8, 16, 32]),
        ([2, 2, 2, 1], True, [4, 4, 8, 16, 16]),
        ([2, 2, 1, 1], True, [4, 4, 8, 8, 8]),
        ([2, 1, 2, 1], False, [2, 2, 2, 4, 4]),
        ([1, 2, 2, 2], True, [2, 2, 4, 8, 16]),
        ([1, 1, 1, 1], False, [1, 1, 1, 1, 1]),
    ],
)
def test_strides_are_those_that_it_reports(depth, strides, max_pool, expected):
    cfg = config("DEPTH", depth, *SLIM, "STRIDES", strides, "STEM_MAX_POOL", max_pool)
    names = ["stem", "res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.OUT_FEATURES = names
    backbone = build_backbone(cfg).eval()
    assert [backbone.output_shape()[name].stride for name in names] == expected
    for name, feature in backbone(torch.randn(1, 3, 33, 50)).items():
        spec = backbone.output_shape()[name]
        size = [math.ceil(side / spec.stride) for side in (33, 50)]
        assert list(feature.shape) == [1, spec.channels, *size]


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_freezing_stops_gradients_below_a_stage(freeze_at):
    backbone = build_backbone(config(*SLIM, "NORM", "BN", freeze_at=freeze_at))
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    free = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    stages = ["stem", "res2", "res3", "res4", "res5"]
    assert not frozen & free
    assert free == set(stages[freeze_at:])


def test_fixed_batch_norm_trains_its_affine_part_where_nothing_is_frozen():
    cfg = config(*SLIM, "NORM", "FixedBN", freeze_at=3)
    backbone = build_backbone(cfg).train()
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    frozen = build_backbone(cfg).train()
    weights = {k: torch.rand_like(v) for k, v in frozen.state_dict().items()}
    for model in (backbone, frozen):
        assert not model.load_state_dict(weights, strict=False).unexpected_keys
    image = torch.randn(2, 3, 64, 64)
    features = backbone(image)["res5"]
    assert torch.allclose(features, frozen(image)["res5"], rtol=1e-3)
    features.sum().backward()
    learnt = {n for n, p in backbone.named_parameters() if p.grad is not None}
    # As published: nothing below res4 learns, there the affine parts do too.
    assert {n.split(".")[0] for n in learnt} == {"res4", "res5"}
    convolutions = {n for n in learnt if ".norm." not in n}
    assert convolutions == {n for n, p in frozen.named_parameters() if p.requires_grad}
    assert learnt - convolutions == {
        n.replace("weight", f"norm.{part}") for n in convolutions for part in ("weight", "bias")
    }
    # Statistics stay what the weights brought.
    assert all(torch.equal(v, weights[n]) for n, v in backbone.named_buffers() if "running" in n)


@pytest.mark.parametrize("norm", ["FrozenBN", "FixedBN"])
def test_weights_in_detectron2s_format_load(tmp_path, norm):
    # As in detectron2://ImageNetPretrained/torchvision/R-50.pkl: plain names, numpy arrays.
    stock = build_resnet_backbone(config(*SLIM), IMAGE)
    for value in stock.state_dict().values():
        value.normal_()
    weights = {k: v.numpy() for k, v in stock.state_dict().items()}
    weights["stem.fc.weight"] = torch.randn(10, 128).numpy()
    file = tmp_path / "R-50.pkl"
    file.write_bytes(
        pickle.dumps({"model": weights, "__author__": "torchvision", "matching_heuristics": True})
    )

    cfg = config(*SLIM, "STRIDES", [2, 2, 2, 1], "NORM", norm)
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    assert_loads(model, file, stock.state_dict())


def test_weights_in_caffe2s_format_load(tmp_path):
    # As in detectron2://ImageNetPretrained/MSRA/R-50.pkl: blob names, batch norm as an affine map.
    stock = build_resnet_backbone(config(*SLIM), IMAGE)
    expected, blobs = {}, {}
    for name, value in stock.state_dict().items():
        if "running" in name:
            continue
        expected[name] = value.normal_()
        blobs[caffe2_name(name)] = value.numpy()
    blobs["fc1000_w"] = torch.randn(10, 128).numpy()
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps(blobs))

    model = nn.ModuleDict({"backbone": build_backbone(config(*SLIM, "STRIDES", [2, 2, 2, 1]))})
    assert_loads(model, file, expected)


def caffe2_name(name):
    """stem.conv1.norm.weight -> res_conv1_bn_s, res3.2.conv1.weight -> res3_2_branch2a_w."""
    *layer, kind = name.split(".")
    norm = layer[-1] == "norm"
    layer = layer[:-1] if norm else layer
    suffix = {"weight": "_bn_s", "bias": "_bn_b"}[kind] if norm else "_w"
    if layer[0] == "stem":
        return ("res_conv1" if norm else "conv1") + suffix
    stage, block, conv = layer
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[conv]
    return f"{stage}_{block}_branch{branch}{suffix}"


def assert_loads(model, file, expected):
    checkpointer = DetectionCheckpointer(model)
    incompatible = checkpointer._load_model(checkpointer._load_file(str(file)))
    loaded = model.state_dict()
    assert incompatible.missing_keys == []
    assert all(torch.equal(loaded[f"backbone.{name}"], v) for name, v in expected.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["DEPTH", 20], "DEPTH must be one of 18, 34, 50, 101, 152, got 20"),
        (["STRIDES", [2, 2, 2]], "STRIDES must be four positive numbers, for conv1, res3"),
        (["STRIDES", [2, 2, 2, 0]], "STRIDES must be"),
        (["DILATIONS", [1, 1, 1, 2, 2]], "DILATIONS must be"),
        (["RES5_DILATION", 2], "DILATIONS in place of RES5_DILATION"),
        (["DEFORM_ON_PER_STAGE", [False, False, False, True]], "no deformable blocks"),
        (["DEPTH", 18, "DILATIONS", [1, 1, 1, 2]], "ResNet-18 has neither"),
        (["DEPTH", 34, "NUM_GROUPS", 2], "ResNet-34 has neither"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(*options))
