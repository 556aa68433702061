"""IRNet: heads against a plain rewriting of the published net, losses, padding, frozen backbone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from wsis_d2 import add_wsis_config
from wsis_d2.engine import WSISCheckpointer
from wsis_d2.errors import UserError
from wsis_d2.layers import irnet_losses
from wsis_d2.modeling import (
    RELATION_HEAD_REGISTRY,
    BoundaryHead,
    ContextDisplacementHead,
    DisplacementHead,
)
from wsis_d2.modeling.features import resample
from wsis_d2.modeling.seeds import batch_seeds

LEVELS = ["stem", "res2", "res3", "res4", "res5"]
PUBLISHED_STRIDES = (4, 4, 8, 16, 16)


def config(name="IRNet", out_features=LEVELS, **irnet):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.PIXEL_STD = [58.0, 57.0, 56.0]
    cfg.MODEL.RESNETS.merge_from_list(
        ["DEPTH", 18, "STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 8, "NORM", "BN"]
        + ["OUT_FEATURES", out_features, "STRIDES", [2, 2, 2, 1], "STEM_MAX_POOL", False]
    )
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 3
    cfg.MODEL.IRNET.merge_from_list(
        [x for pair in {"RADIUS": 3, "TEST_SIZE": 0, **irnet}.items() for x in pair]
    )
    return cfg


@pytest.fixture
def model():
    return make()


def make(**irnet):
    torch.manual_seed(0)
    model = build_model(config(**irnet))
    for module in model.backbone.modules():  # statistics that are not those of the batch
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def inputs(*sizes):
    rng = np.random.default_rng(0)
    batch = []
    for i, (height, width) in enumerate(sizes):
        seeds = np.kron(rng.choice([0, 1, 2, 255], (20, 20)), np.ones((8, 8)))[:height, :width]
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        seeds = torch.from_numpy(seeds.astype(np.uint8))
        batch.append({"file_name": f"{i}.jpg", "image": image, "sem_seg": seeds})
    return batch


def randomise(head):
    for p in head.parameters():
        nn.init.normal_(p, 0, 0.3)
    return head


def features_of(height, width, strides, channels=4):
    shapes = {
        name: ShapeSpec(channels=channels + i, stride=stride)
        for i, (name, stride) in enumerate(zip(LEVELS, strides))
    }
    features = {
        name: torch.randn(2, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        for name, shape in shapes.items()
    }
    return shapes, features


def branch(level, groups, factor=1):
    """The published block: convolution, group normalisation, upsampling, ReLU."""

    def run(x):
        x = F.group_norm(F.conv2d(x, level.weight), groups, level.norm.weight, level.norm.bias)
        return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)(x).relu()

    return run


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (33, 17)])
def test_boundary_head_is_the_published_one(height, width):
    torch.manual_seed(0)
    shapes, features = features_of(height, width, PUBLISHED_STRIDES)
    head = randomise(BoundaryHead(config(), shapes))
    size = -(-height // 4), -(-width // 4)
    maps = [
        branch(head.levels[name], 4, stride // 4)(features[name])[..., : size[0], : size[1]]
        for name, stride in zip(LEVELS, PUBLISHED_STRIDES)
    ]
    predictor = head.predictor
    expected = F.conv2d(torch.cat(maps, 1), predictor.weight, predictor.bias)
    assert [m.shape[1] for m in maps] == [32] * 5
    assert expected.shape == (2, 1, *size)
    assert torch.equal(head(features), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (33, 17)])
def test_displacement_head_is_the_published_one(height, width):
    torch.manual_seed(0)
    shapes, features = features_of(height, width, PUBLISHED_STRIDES)
    head = randomise(DisplacementHead(config(), shapes))
    fine, middle = ([-(-height // s), -(-width // s)] for s in (4, 8))

    def crop(x, size):
        return x[..., : size[0], : size[1]]

    dp1 = branch(head.levels["stem"], 8)(features["stem"])
    dp2 = branch(head.levels["res2"], 16)(features["res2"])
    dp3 = branch(head.levels["res3"], 16)(features["res3"])
    dp4 = crop(branch(head.levels["res4"], 16, 2)(features["res4"]), middle)
    dp5 = crop(branch(head.levels["res5"], 16, 2)(features["res5"]), middle)
    dp6 = crop(branch(head.merge_coarse, 16, 2)(torch.cat([dp3, dp4, dp5], 1)), fine)
    dp7 = branch(head.merge, 16)(torch.cat([dp1, dp2, dp6], 1))
    assert [x.shape[1] for x in (dp1, dp2, dp3, dp4, dp5, dp6, dp7)] == [64, 128] + [256] * 5
    expected = F.conv2d(dp7, head.predictor.weight)
    assert expected.shape == (2, 2, *fine)
    assert torch.equal(head(features), expected)


@pytest.mark.parametrize("strides", [(2, 2, 4, 8, 8), (1, 2, 2, 4, 8), (8, 8, 16, 16, 16)])
@pytest.mark.parametrize("stride", [2, 4])
def test_heads_take_any_strides(strides, stride):
    shapes, features = features_of(37, 70, strides)
    cfg = config(STRIDE=stride)
    size = (-(-37 // stride), -(-70 // stride))
    if strides[0] > stride:  # nothing finer says where the image ends
        size = tuple(-(-side // strides[0]) * strides[0] // stride for side in (37, 70))
    assert BoundaryHead(cfg, shapes)(features).shape == (2, 1, *size)
    assert DisplacementHead(cfg, shapes)(features).shape == (2, 2, *size)


def test_resampling_to_a_coarser_stride_takes_means_of_what_is_there():
    x = torch.arange(15.0).view(1, 1, 3, 5)
    expected = torch.tensor([[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]])
    assert torch.equal(resample(x, 2, 4)[0, 0], expected)
    assert resample(x, 4, 4) is x
    with pytest.raises(UserError, match="stride 6 and 4 cannot be brought together"):
        resample(x, 4, 6)


def test_losses_are_the_published_total(model):
    batch = inputs((64, 72), (57, 72), (64, 41))
    losses = model.train()(batch)
    assert set(losses) == {"loss_bg_pos", "loss_fg_pos", "loss_neg", "loss_dp_fg", "loss_dp_bg"}

    images, seeds = torch.zeros(3, 3, 64, 72), torch.full((3, 64, 72), 255, dtype=torch.uint8)
    mean = torch.tensor([103.530, 116.280, 123.675]).view(3, 1, 1)  # detectron2's default
    std = torch.tensor([58.0, 57.0, 56.0]).view(3, 1, 1)
    for i, x in enumerate(batch):
        height, width = x["sem_seg"].shape
        images[i, :, :height, :width] = (x["image"] - mean) / std
        seeds[i, :height, :width] = x["sem_seg"]
    # Pillow's nearest neighbour, as in the published code.
    reduced = [np.array(Image.fromarray(s.numpy()).resize((18, 16), Image.NEAREST)) for s in seeds]
    expected = irnet_losses(*model.relations(images), torch.from_numpy(np.stack(reduced)), 3)
    assert sum(losses.values()).item() == pytest.approx(expected["total"].item(), rel=1e-5)
    for name in ("loss_bg_pos", "loss_fg_pos"):
        assert losses[name].item() == pytest.approx(expected[name].item() / 4, rel=1e-5)


@pytest.mark.parametrize(("stride", "size"), [(4, (24, 36)), (8, (24, 40)), (4, (21, 35))])
def test_seeds_are_those_at_the_cells_centres(stride, size):
    seeds = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    height, width = (-(-side // stride) for side in size)
    padded = np.full((height * stride, width * stride), 255, np.uint8)
    padded[: size[0], : size[1]] = seeds
    expected = np.array(Image.fromarray(padded).resize((width, height), Image.NEAREST))
    (found,) = batch_seeds([{"sem_seg": torch.from_numpy(seeds)}], (height, width), stride)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_only_the_heads_learn(model):
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.train()
    assert not model.backbone.training
    assert model.boundary_head.training
    sum(model(inputs((64, 72))).values()).backward()
    with_gradient = {k.split(".")[0] for k, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"boundary_head", "displacement_head"}
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[key]), "statistics of the frozen backbone moved"


def test_heads_learn_a_simple_scene(model):
    # A bright and a dark box on gray; seeds in the middle of each and of the background.
    image = torch.full((3, 64, 96), 120, dtype=torch.uint8)
    seeds = torch.zeros(64, 96, dtype=torch.uint8)
    for label, left, color in ((1, 12, 230), (2, 60, 20)):
        image[:, 16:48, left : left + 24] = color
        seeds[16:48, left : left + 24] = label
    batch = [{"image": image, "sem_seg": seeds}]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    totals = []
    for _ in range(40):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]

    with torch.no_grad():
        (out,) = model.eval()(batch)
    labels = seeds[2::4, 2::4]
    edge = torch.zeros_like(labels, dtype=torch.bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    assert out["boundary"][edge].mean() > out["boundary"][~edge].mean() + 0.2
    # Displacements point inwards: they fall along x from the left to the right side of a box.
    box = out["displacement"][1, 5:11, 4:8]
    assert (box[:, 0] > box[:, -1]).all()


def test_inference_combines_an_image_with_its_mirror_image(model):
    model.eval()
    (x,) = inputs((64, 72))
    model.mean_displacement.copy_(torch.tensor([1.0, -2.0]))
    mirrored = {"image": x["image"].flip(-1)}
    with torch.no_grad():
        pair = torch.stack([model.normalise(x["image"]), model.normalise(mirrored["image"])])
        logits, displacement = model.relations(pair)
        out, out_mirrored = model([x, mirrored])
    assert out["boundary"].shape == (16, 18)
    mean = (logits[0, 0] + logits[1, 0].flip(-1)) / 2
    assert torch.allclose(out["boundary"], mean.sigmoid(), atol=1e-5)
    assert torch.allclose(out["boundary"], out_mirrored["boundary"].flip(-1), atol=1e-5)
    expected = displacement[0] - torch.tensor([1.0, -2.0]).view(2, 1, 1)
    assert torch.allclose(out["displacement"], expected, atol=1e-5)
    with torch.no_grad():
        (raw,) = model.raw_displacements([x])
    assert torch.allclose(raw, displacement[0], atol=1e-5)


@pytest.mark.parametrize(("size", "padded"), [((41, 53), (64, 64)), ((41, 70), (64, 70))])
def test_images_are_padded_after_mirroring(size, padded):
    model = make(TEST_SIZE=64).eval()
    (x,) = inputs(size)
    canvas = torch.zeros(2, 3, *padded)
    normalised = model.normalise(x["image"])
    canvas[0, :, : size[0], : size[1]] = normalised
    canvas[1, :, : size[0], : size[1]] = normalised.flip(-1)
    height, width = ((side - 1) // 4 + 1 for side in size)
    with torch.no_grad():
        logits, displacement = model.relations(canvas)
        (out,) = model([x])
    logits = logits[:, 0, :height, :width]
    expected = (logits[0] / 2 + logits[1].flip(-1) / 2).sigmoid()
    assert torch.allclose(out["boundary"], expected, atol=1e-5)
    assert torch.allclose(out["displacement"], displacement[0, :, :height, :width], atol=1e-5)
    unpadded = make().eval()
    with torch.no_grad():
        assert not torch.allclose(unpadded([x])[0]["boundary"], expected, atol=1e-4)


def test_output_does_not_depend_on_the_batch(model):
    model.eval()
    batch = inputs((41, 53), (64, 72), (41, 53))
    with torch.no_grad():
        together = model(batch)
        for x, found in zip(batch, together):
            (alone,) = model([{"image": x["image"]}])  # no seeds needed
            assert torch.equal(found["boundary"], alone["boundary"])
            assert torch.equal(found["displacement"], alone["displacement"])


def test_mixed_precision_leaves_losses_and_maps_in_full(model):
    batch = inputs((64, 72))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(batch)
        sum(losses.values()).backward()
        with torch.no_grad():
            (out,) = model.eval()(batch)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert {value.dtype for value in out.values()} == {torch.float32}


def test_a_trained_classifiers_backbone_loads(tmp_path):
    torch.manual_seed(1)
    classifier = build_model(config("CAMClassifier", out_features=["res5"]))
    classifier.backbone.res2[0].conv1.norm.running_mean.fill_(3.0)
    saver = WSISCheckpointer(
        classifier, str(tmp_path), meta_architecture="CAMClassifier", classes=["a", "b", "c"]
    )
    saver.save("model_final")

    model = make()
    heads = {k: v.clone() for k, v in model.state_dict().items() if "head" in k}
    WSISCheckpointer(model, meta_architecture="IRNet", classes=["a", "b", "c"]).load(
        str(tmp_path / "model_final.pth")
    )
    loaded = model.state_dict()
    for key, value in classifier.backbone.state_dict().items():
        assert torch.equal(loaded[f"backbone.{key}"], value), key
    assert {key.split(".")[1] for key in loaded if key.startswith("backbone.")} == set(LEVELS)
    assert all(torch.equal(loaded[key], value) for key, value in heads.items())


def test_heads_are_replaceable_by_name():
    @RELATION_HEAD_REGISTRY.register()
    class FlatHead(nn.Module):
        def __init__(self, cfg, input_shape):
            super().__init__()
            self.predictor = nn.Conv2d(input_shape["res3"].channels, 1, 1)

        def forward(self, features):
            return self.predictor(features["res3"])

    try:
        model = make(BOUNDARY_HEAD="FlatHead").eval()
        (x,) = inputs((64, 72))
        with torch.no_grad():
            (out,) = model([x])
            feature = model.features(model.normalise(x["image"])[None])["res3"]
            mirrored = model.features(model.normalise(x["image"].flip(-1))[None])["res3"]
            logits = [model.boundary_head.predictor(f)[0, 0] for f in (feature, mirrored)]
        expected = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()
        assert torch.allclose(out["boundary"], expected, atol=1e-5)
    finally:
        RELATION_HEAD_REGISTRY._obj_map.pop("FlatHead")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"BOUNDARY_HEAD": "EdgeHead"}, "BOUNDARY_HEAD is 'EdgeHead': choose one of BoundaryHead"),
        ({"IN_FEATURES": ("res5", "res6")}, "MODEL.IRNET.IN_FEATURES names 'res6'.*OUT_FEATURES"),
        ({"IN_FEATURES": ("res2", "res5")}, "at least three features"),
        (
            {"out_features": ["res5"]},
            "names 'stem', but the backbone gives res5: add",
        ),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_model(config(**options))


def test_training_images_without_seeds_or_too_small(model):
    model.train()
    batch = inputs((64, 72), (64, 72))
    del batch[1]["sem_seg"]
    with pytest.raises(UserError, match="1.jpg came to training without 'sem_seg'"):
        model(batch)
    with pytest.raises(UserError, match=r"at most 12 x 16 pixels.*12 x 20 are needed"):
        model(inputs((12, 16)))


def test_the_context_head_without_context_is_the_published_one():
    torch.manual_seed(0)
    shapes, features = features_of(61, 90, PUBLISHED_STRIDES)
    context, plain = (
        randomise(head(config(), shapes)) for head in (ContextDisplacementHead, DisplacementHead)
    )
    plain.load_state_dict(context.state_dict(), strict=False)
    assert not torch.allclose(context(features), plain(features))
    context.add_context = lambda coarse: coarse
    assert torch.equal(context(features), plain(features))


@pytest.mark.parametrize("strides", [(4, 4, 8, 16, 16), (2, 4, 8, 16, 32), (8, 8, 16, 16, 16)])
def test_the_context_head_looks_around(strides):
    torch.manual_seed(0)
    shapes, features = features_of(160, 220, strides)
    features["res5"].requires_grad_()
    reach = []
    for head in (DisplacementHead, ContextDisplacementHead):
        out = randomise(head(config(), shapes)).eval()(features)
        # Group normalisation ties all cells together, so ask who answers strongly.
        cell = out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum()
        gradient = torch.autograd.grad(cell, features["res5"])[0][0].abs().sum(0)
        reach.append(int((gradient > 0.05 * gradient.max()).sum()))
    assert reach[1] > 2 * reach[0]
