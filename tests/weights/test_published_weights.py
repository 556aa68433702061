"""Names of the published weights, against modules that hold their layers as the published nets do.

Their ResNet-50 is torchvision's, with other strides and without the last layer.
"""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from torch import nn
from torchvision.models import resnet50

from wsis_d2.engine import WSISCheckpointer, convert_checkpoint, load_config
from wsis_d2.errors import UserError
from wsis_d2.weights.published import from_published, meta_architecture, to_published

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = [f"class {i}" for i in range(20)]


def strided_resnet50():
    net = resnet50()
    del net.fc, net.avgpool
    for conv in (net.layer4[0].conv2, net.layer4[0].downsample[0]):
        conv.stride = (1, 1)
    return net


class CAM(nn.Module):
    """Holds its layers as the published classifier does."""

    def __init__(self):
        super().__init__()
        net = self.resnet50 = strided_resnet50()
        self.stage1 = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.stage2 = nn.Sequential(net.layer2)
        self.stage3 = nn.Sequential(net.layer3)
        self.stage4 = nn.Sequential(net.layer4)
        self.classifier = nn.Conv2d(2048, 20, 1, bias=False)
        self.backbone = nn.ModuleList([self.stage1, self.stage2, self.stage3, self.stage4])
        self.newly_added = nn.ModuleList([self.classifier])

    def forward(self, x):
        for stage in self.backbone:
            x = stage(x)
        return F.relu(self.classifier(x))


class MeanShift(nn.Module):
    """The buffer that the published net subtracts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.randn(2))


def block(in_channels, channels, groups):
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(groups, channels), nn.ReLU())


class Relations(nn.Module):
    """Holds its layers as the published IRNet does."""

    def __init__(self):
        super().__init__()
        net = self.resnet50 = strided_resnet50()
        self.stage1 = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        later = (net.layer1, net.layer2, net.layer3, net.layer4)
        self.stage2, self.stage3, self.stage4, self.stage5 = map(nn.Sequential, later)
        self.mean_shift = MeanShift()
        widths = (64, 256, 512, 1024, 2048)
        for i, width in enumerate(widths, start=1):
            setattr(self, f"fc_edge{i}", block(width, 32, 4))
            setattr(self, f"fc_dp{i}", block(width, *{1: (64, 8), 2: (128, 16)}.get(i, (256, 16))))
        self.fc_edge6 = nn.Conv2d(160, 1, 1)
        self.fc_dp6 = block(768, 256, 16)
        last = nn.Conv2d(256, 2, 1, bias=False)
        self.fc_dp7 = nn.Sequential(*block(448, 256, 16), last, self.mean_shift)
        self.backbone = nn.ModuleList([getattr(self, f"stage{i}") for i in range(1, 6)])
        self.edge_layers = nn.ModuleList([getattr(self, f"fc_edge{i}") for i in range(1, 7)])
        self.dp_layers = nn.ModuleList([getattr(self, f"fc_dp{i}") for i in range(1, 8)])


NETS = {"CAMClassifier": (CAM, "Base-CAM"), "IRNet": (Relations, "Base-IRNet")}


@functools.cache
def published_net(name):
    torch.manual_seed(0)
    net = NETS[name][0]()
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if value.dim() == 1 else nn.init.kaiming_normal_(value)
    return net.eval()


@functools.cache
def our_net(name):
    path = CONFIGS / f"{NETS[name][1]}.yaml"
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", "20"])
    assert name == cfg.MODEL.META_ARCHITECTURE
    return build_model(cfg).eval()


def without_counters(weights):
    """Of batches, which plain batch normalisation has and FrozenBN has not; nothing reads them."""
    return {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}


def load(model, weights):
    """Strictly, names and shapes, but for the counters."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not without_counters(dict.fromkeys([*missing, *unexpected]))


@pytest.mark.parametrize("name", NETS)
def test_all_weights_of_both_nets_are_named(name):
    published, model = published_net(name), our_net(name)
    weights = published.state_dict()
    assert meta_architecture(weights) == name
    converted = from_published(weights)
    assert set(converted) == set(without_counters(model.state_dict()))
    load(model, converted)

    back = to_published(model.state_dict())
    assert set(back) == set(weights)
    for key, value in back.items():
        assert torch.equal(value, weights[key]), key
    published.load_state_dict(back, strict=True)


def test_converted_classifier_gives_the_same_maps():
    published, model = published_net("CAMClassifier"), our_net("CAMClassifier")
    load(model, from_published(published.state_dict()))
    image = torch.randn(1, 3, 75, 100)
    with torch.no_grad():
        expected = published(image)
        found = model.class_activation_maps(image)
    assert found.shape == (1, 20, 5, 7)
    assert (found - expected).abs().max() < 1e-4 * expected.max()


def test_converted_relations_read_the_same_layers():
    published, model = published_net("IRNet"), our_net("IRNet")
    weights = published.state_dict()
    weights["path_indices0"] = torch.zeros(3, 4)  # of the net in training
    weights["disp_target"] = torch.zeros(1, 2, 3, 1)
    load(model, from_published(weights))
    x = torch.randn(1, 3, 75, 100)
    with torch.no_grad():
        features = model.features(x)
        edges = dict(model.boundary_head.levels)
        fields = dict(model.displacement_head.levels)
        for i, level in enumerate(("stem", "res2", "res3", "res4", "res5"), start=1):
            x = published.backbone[i - 1](x)
            for theirs, level_of in ((f"fc_edge{i}", edges), (f"fc_dp{i}", fields)):
                expected = getattr(published, theirs)(x)
                found = F.relu(level_of[level](features[level]))
                assert (found - expected).abs().max() < 1e-4 * expected.max(), (theirs, level)
    assert torch.equal(model.mean_displacement, published.mean_shift.running_mean)
    head = model.displacement_head
    assert torch.equal(head.merge_coarse.weight, published.fc_dp6[0].weight)
    assert torch.equal(head.merge.norm.bias, published.fc_dp7[1].bias)
    assert torch.equal(head.predictor.weight, published.fc_dp7[3].weight)
    assert torch.equal(model.boundary_head.predictor.bias, published.fc_edge6.bias)


def small(weights):
    """One number per output channel: names and counts are as in the real file."""
    return {
        key: value.flatten(1)[:, 0].clone() if value.dim() > 1 else value for key, value in weights
    }


@pytest.fixture
def published_cam():
    return small(published_net("CAMClassifier").state_dict().items())


def test_files_round_trip(published_cam, tmp_path):
    source, ours_file, back = (str(tmp_path / f) for f in ("a.pth", "new/b.pth", "c.pth"))
    torch.save(published_cam, source)
    assert convert_checkpoint(source, ours_file, "wsis_d2", CLASSES) == "CAMClassifier"
    checkpoint = torch.load(ours_file, weights_only=True)
    assert checkpoint["wsis_d2"] == {"meta_architecture": "CAMClassifier", "classes": CLASSES}
    assert convert_checkpoint(ours_file, back, "irn") == "CAMClassifier"
    found = torch.load(back, weights_only=True)
    assert set(found) == set(published_cam)
    assert all(torch.equal(found[key], value) for key, value in published_cam.items())


def test_converted_file_is_one_of_our_checkpoints(tmp_path):
    torch.save(published_net("CAMClassifier").state_dict(), tmp_path / "res50_cam.pth")
    path = str(tmp_path / "ours.pth")
    convert_checkpoint(str(tmp_path / "res50_cam.pth"), path, "wsis_d2", CLASSES)
    model = our_net("CAMClassifier")
    options = {"meta_architecture": "CAMClassifier", "exact": True}
    WSISCheckpointer(model, **options, classes=CLASSES).load(path)
    with pytest.raises(UserError, match="class 0 is 'class 0' instead of 'other'"):
        WSISCheckpointer(model, **options, classes=["other", *CLASSES[1:]]).load(path)
    irnet = our_net("IRNet")
    WSISCheckpointer(irnet, meta_architecture="IRNet").load(path)
    for key, value in without_counters(model.backbone.state_dict()).items():
        assert torch.equal(irnet.backbone.state_dict()[key], value), key


def without(weights, key):
    return {k: v for k, v in weights.items() if k != key}


@pytest.mark.parametrize(
    ("change", "to", "classes", "message"),
    [
        (lambda w: without(w, "resnet50.bn1.bias"), "wsis_d2", (), "lacks 1 .*'resnet50.bn1.bias'"),
        (
            lambda w: {**w, "fc.weight": w["classifier.weight"]},
            "wsis_d2",
            (),
            "has 1 weights.*'fc.weight'",
        ),
        (lambda w: without(w, "classifier.weight"), "wsis_d2", (), "neither a CAM classifier nor"),
        (lambda w: w, "irn", (), "has the layout 'irn' already"),
        (from_published, "wsis_d2", (), "has the layout 'wsis_d2' already"),
        (lambda w: w, "wsis_d2", ("cat", "dog"), "has 20 classes, but 2 are named"),
        (lambda w: w, "onnx", (), "the layout 'onnx' is unknown"),
        (
            lambda w: {k: v[:8] if v.dim() else v for k, v in from_published(w).items()},
            "irn",
            (),
            "has 8 channels in stem.conv1 instead of 64",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(published_cam, tmp_path, change, to, classes, message):
    source, output = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(change(published_cam), source)
    with pytest.raises(UserError, match=message) as error:
        convert_checkpoint(str(source), str(output), to, classes)
    assert "\n" not in str(error.value)
    assert not output.exists()


def test_missing_and_damaged_files_are_refused(tmp_path):
    output = str(tmp_path / "b.pth")
    with pytest.raises(UserError, match="does not exist"):
        convert_checkpoint(str(tmp_path / "none.pth"), output, "wsis_d2")
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        convert_checkpoint(str(tmp_path / "a.pth"), output, "wsis_d2")
