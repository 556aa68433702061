"""timm's networks behind Detectron2's interface, against timm's own feature extraction."""

import math
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

timm = pytest.importorskip("timm")

from wsis_d2 import add_wsis_config  # noqa: E402
from wsis_d2.errors import UserError  # noqa: E402
from wsis_d2.labeling import multi_scale_cams  # noqa: E402
from wsis_d2.modeling.timm_backbone import TimmBackbone, create_timm_network  # noqa: E402

SMALL = "mobilenetv2_035"
LEVELS = ["stem", "res2", "res3", "res4", "res5"]


def config(name=SMALL, architecture="CAMClassifier", backbone="build_timm_backbone", **timm_keys):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 3
    cfg.MODEL.IRNET.merge_from_list(["RADIUS", 3, "TEST_SIZE", 0])
    cfg.MODEL.TIMM.NAME = name
    for key, value in timm_keys.items():
        cfg.MODEL.TIMM[key] = value
    return cfg


def image(height=77, width=50):
    return torch.randint(0, 256, (3, height, width), generator=torch.manual_seed(0)).float()


def randomise_norms(module):
    """Statistics that are not those of the batch."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        (SMALL, LEVELS),
        ("tf_efficientnet_lite0", LEVELS),
        ("resnet18", LEVELS),
        ("regnetx_002", LEVELS),
        ("convnext_atto", LEVELS[1:]),  # its stem has a stride of 4, and it rounds down
        ("edgenext_xx_small", LEVELS[1:]),
    ],
)
@pytest.mark.parametrize("size", [(77, 50), (64, 96)])
def test_levels_are_named_by_stride_and_rounded_up(name, levels, size):
    torch.manual_seed(0)
    backbone = TimmBackbone(create_timm_network(name)).eval()
    shapes = backbone.output_shape()
    assert list(shapes) == levels
    assert [shapes[level].stride for level in levels] == [2, 4, 8, 16, 32][-len(levels) :]
    features = backbone(torch.randn(2, 3, *size))
    for level, shape in shapes.items():
        expected = (2, shape.channels, *(math.ceil(side / shape.stride) for side in size))
        assert features[level].shape == expected


@pytest.mark.parametrize("name", [SMALL, "tf_efficientnet_lite0", "resnet18"])
def test_features_are_those_of_timms_own_extraction(name):
    torch.manual_seed(0)
    network = create_timm_network(name)
    randomise_norms(network)
    theirs = timm.create_model(name, features_only=True)
    theirs.load_state_dict({k: network.state_dict()[k] for k in theirs.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    ours = TimmBackbone(network, out_features=[*LEVELS, "head"]).eval()(x)
    for feature, expected in zip([ours[level] for level in LEVELS], theirs.eval()(x)):
        torch.testing.assert_close(feature, expected)
    torch.testing.assert_close(ours["head"], network.forward_features(x))


def test_parameters_have_timms_names():
    names = set(TimmBackbone(create_timm_network(SMALL)).state_dict())
    theirs = timm.create_model(SMALL, num_classes=0).state_dict()
    assert names == {f"network.{name}" for name in theirs}


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(16, [2, 4, 8, 16, 16]), (8, [2, 4] + [8] * 3)]
)
def test_output_stride_dilates(output_stride, strides):
    torch.manual_seed(0)
    network = create_timm_network(SMALL, output_stride)
    backbone = TimmBackbone(network).eval()
    assert [shape.stride for shape in backbone.output_shape().values()] == strides
    dilations = {m.dilation for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {(d, d) for d in (1, 2, 4) if d <= 32 // output_stride}
    plain = create_timm_network(SMALL, output_stride, dilate=False)
    assert {m.dilation for m in plain.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    plain.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 65, 50)
    with_dilation, without = backbone(x), TimmBackbone(plain).eval()(x)
    torch.testing.assert_close(with_dilation["res3"], without["res3"])
    assert with_dilation["res5"].shape == without["res5"].shape
    assert not torch.allclose(with_dilation["res5"], without["res5"])


def trained(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 4, 5])
def test_freeze_at_freezes_levels(freeze_at):
    backbone = TimmBackbone(create_timm_network(SMALL), freeze_at=freeze_at)
    backbone.train()
    features = backbone(torch.randn(2, 3, 64, 64))
    has_gradient = [features[level].requires_grad for level in LEVELS]
    assert has_gradient == [position >= freeze_at for position in range(5)]


def test_what_no_feature_needs_is_not_trained():
    # DDP would wait for its gradients.
    backbone = TimmBackbone(create_timm_network(SMALL), out_features=["res3"])
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64))["res3"].sum().backward()
    got = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert trained(backbone) == got
    with_head = TimmBackbone(create_timm_network(SMALL), out_features=["head"])
    with_head(torch.randn(2, 3, 64, 64))["head"].sum().backward()
    assert all(p.grad is not None for p in with_head.parameters())


@pytest.mark.parametrize(
    ("norm", "statistics_move", "affine_trains"),
    [("BN", True, True), ("FixedBN", False, True), ("FrozenBN", False, False)],
)
def test_norms(norm, statistics_move, affine_trains):
    network = create_timm_network(SMALL)
    backbone = TimmBackbone(network, norm=norm, freeze_at=1).train()
    late = network.blocks[-1][0].bn1
    frozen = network.bn1
    before = late.running_mean.clone(), frozen.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64) + 1)
    assert (not torch.equal(late.running_mean, before[0])) == statistics_move
    assert torch.equal(frozen.running_mean, before[1])
    assert late.weight.requires_grad == affine_trains
    assert not frozen.weight.requires_grad


def test_a_vit_has_one_stride():
    torch.manual_seed(0)
    backbone = TimmBackbone(
        create_timm_network("vit_tiny_patch16_224"), out_features=[*LEVELS, "head"]
    ).eval()
    assert {shape.stride for shape in backbone.output_shape().values()} == {16}
    features = backbone(torch.randn(1, 3, 65, 100))
    assert {tuple(f.shape) for f in features.values()} == {(1, 192, 5, 7)}
    x = torch.randn(1, 3, 64, 96)
    tokens = backbone.network.forward_features(x)[:, 1:]
    torch.testing.assert_close(backbone(x)["head"].flatten(2).transpose(1, 2), tokens)
    # The ends of the quarters of its twelve blocks.
    blocks = backbone.network.forward_intermediates(x, intermediates_only=True)
    for level, block in zip(LEVELS, (0, 2, 5, 8, 11)):
        torch.testing.assert_close(backbone(x)[level], blocks[block])


def test_a_pyramid_of_a_vit_lies_on_the_image():
    backbone = TimmBackbone(create_timm_network("vit_tiny_patch16_224"), pyramid=True).eval()
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    assert strides == {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
    # Cells of 16 pixels whose value is the position of their centre.
    ramp = (torch.arange(6) * 16 + 8.0).expand(1, 1, 4, 6)
    for name, stride in strides.items():
        level = backbone._fit(name, ramp, (61, 93))
        height, width = math.ceil(61 / stride), math.ceil(93 / stride)
        assert level.shape == (1, 1, height, width)
        centres = torch.arange(width) * stride + stride / 2
        inside = (centres >= 8) & (centres <= 88)
        torch.testing.assert_close(level[0, 0, 0][inside], centres[inside])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: create_timm_network("mobilenetv2_10"), "did you mean mobilenetv2_1"),
        (lambda: create_timm_network(""), "MODEL.TIMM.NAME"),
        (lambda: create_timm_network(SMALL, 4), "OUTPUT_STRIDE"),
        (lambda: create_timm_network("vgg11", 16), "cannot be built with MODEL.TIMM.OUTPUT_STRIDE"),
        (lambda: TimmBackbone(create_timm_network(SMALL), out_features=["res6"]), "res6"),
        (lambda: TimmBackbone(create_timm_network(SMALL), norm="XBN"), "XBN"),
        (lambda: TimmBackbone(create_timm_network(SMALL), freeze_at=7), "FREEZE_AT"),
        (lambda: TimmBackbone(nn.Conv2d(3, 3, 1)), "no intermediate features"),
    ],
)
def test_errors_name_the_key(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_without_timm_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'wsis_d2\[timm\]'"):
        build_backbone(config())


@pytest.mark.parametrize("architecture", ["CAMClassifier", "PRMClassifier", "DensityPRM"])
@pytest.mark.parametrize("feature", ["res5", "head"])
def test_classifiers_take_it(architecture, feature):
    torch.manual_seed(0)
    cfg = config(architecture=architecture, OUT_FEATURES=(feature,), OUTPUT_STRIDE=16)
    cfg.MODEL.CLASSIFIER.IN_FEATURE = feature
    model = build_model(cfg)
    inputs = [{"image": image(), "image_labels": [0, 2], "image_counts": [1, 2]}] * 2
    losses = model.train()(inputs)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.eval()(inputs[:1])[0]["image_scores"].shape == (3,)


def test_a_vit_gives_cams():
    torch.manual_seed(0)
    cfg = config("vit_tiny_patch16_224", OUT_FEATURES=("head",))
    cfg.MODEL.CLASSIFIER.IN_FEATURE = "head"
    model = build_model(cfg).eval()
    assert multi_scale_cams(model, image(), [0, 2], (1.0, 0.5)).shape == (2, 20, 13)


@pytest.mark.parametrize("name", [SMALL, "vit_tiny_patch16_224"])
def test_irnet_takes_it(name):
    torch.manual_seed(0)
    model = build_model(config(name, "IRNet", PYRAMID=True))
    seeds = torch.zeros(77, 50, dtype=torch.uint8)
    seeds[20:50, 10:40] = 1
    losses = model.train()([{"image": image(), "sem_seg": seeds}])
    sum(losses.values()).backward()
    assert trained(model) == {
        name for name, p in model.named_parameters() if not name.startswith("backbone.")
    }
    output = model.eval()([{"image": image()}])[0]
    assert output["displacement"].shape == (2, 20, 13)


@pytest.mark.parametrize(("name", "stride"), [(SMALL, 8), ("vit_tiny_patch16_224", 16)])
def test_affinitynet_takes_it(name, stride):
    torch.manual_seed(0)
    cfg = config(name, "AffinityNet")
    cfg.MODEL.AFFINITYNET.merge_from_list(["RADIUS", 2, "STRIDE", stride])
    model = build_model(cfg)
    seeds = torch.zeros(96, 96, dtype=torch.uint8)
    seeds[20:60, 10:60] = 1
    losses = model.train()([{"image": image(96, 96), "sem_seg": seeds}])
    assert all(torch.isfinite(loss) for loss in losses.values())


def instance_inputs():
    mask = torch.zeros(1, 96, 80, dtype=torch.bool)
    mask[:, 20:60, 10:50] = True
    truth = Instances((96, 80))
    truth.gt_masks, truth.gt_boxes = BitMasks(mask), Boxes(torch.tensor([[10.0, 20, 50, 60]]))
    truth.gt_classes = torch.tensor([1])
    return [{"image": image(96, 80), "instances": truth, "height": 96, "width": 80}]


@pytest.mark.parametrize("name", [SMALL, "vit_tiny_patch16_224"])
@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [
        ("GeneralizedRCNN", "build_timm_fpn_backbone"),
        ("RetinaMask", "build_retinanet_timm_fpn_backbone"),
    ],
)
def test_fpn_models_take_it(name, architecture, backbone):
    torch.manual_seed(0)
    cfg = config(name, architecture, backbone)
    cfg.MODEL.MASK_ON = True
    levels = ["p2", "p3", "p4", "p5", "p6"]
    if architecture == "RetinaMask":
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.ROI_MASK_HEAD.merge_from_list(["NUM_CONV", 1, "CONV_DIM", 16])
    else:
        cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.IN_FEATURES = levels
        cfg.MODEL.ROI_HEADS.merge_from_list(["NAME", "StandardROIHeads", "IN_FEATURES", levels[:4]])
        cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["NAME", "FastRCNNConvFCHead", "NUM_FC", 1])
        cfg.MODEL.ROI_MASK_HEAD.merge_from_list(["NAME", "MaskRCNNConvUpsampleHead", "NUM_CONV", 1])
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(cfg)
    with EventStorage():
        losses = model.train()(instance_inputs())
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert "instances" in model.eval()(instance_inputs())[0]
