"""AffinityNet: features against their formula, losses, padding, and clear errors."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.layers import affinitynet_losses


def config(strides=(2, 2, 2, 1), **options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "AffinityNet"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.RESNETS.merge_from_list(
        ["DEPTH", 18, "STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 8, "NORM", "FrozenBN"]
        + ["OUT_FEATURES", ["res3", "res4", "res5"], "STRIDES", list(strides)]
    )
    options = {"CHANNELS": (4, 6, 8), "RADIUS": 3, **options}
    cfg.MODEL.AFFINITYNET.merge_from_list([x for pair in options.items() for x in pair])
    return cfg


def make(*args, **options):
    torch.manual_seed(0)
    return build_model(config(*args, **options))


def inputs(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "file_name": f"{i}.jpg",
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, 3, size, generator=generator, dtype=torch.uint8),
        }
        for i, size in enumerate(sizes)
    ]


def normalised(image, size):
    """Padded with zeros at the right and at the bottom, after normalisation."""
    mean = torch.tensor([103.530, 116.280, 123.675]).view(3, 1, 1)  # detectron2's default
    return F.pad(image - mean, (0, size[1] - image.shape[2], 0, size[0] - image.shape[1]))[None]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90)])
def test_features_by_their_formula(height, width):
    model = make().eval()
    (x,) = inputs((height, width))
    with torch.no_grad():
        features = model.backbone(normalised(x["image"], (64, 96)))
        f3, f4, f5 = (
            F.elu(F.conv2d(features[name], model.levels[name].weight))
            for name in ("res3", "res4", "res5")
        )
        # Strides 8, 16 and 16.
        f4, f5 = (
            F.interpolate(f, size=(8, 12), mode="bilinear", align_corners=False) for f in (f4, f5)
        )
        expected = F.elu(F.conv2d(torch.cat([f3, f4, f5], 1), model.merge.weight))[0]
        (out,) = model([x])
    assert out["features"].shape == (18, 8, 12)
    assert torch.allclose(out["features"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "strides", [(2, 2, 2, 2), (2, 2, 1, 1), (1, 2, 2, 2), (1, 1, 2, 2), (2, 1, 1, 1)]
)
def test_features_have_stride_8_whatever_the_backbones(strides):
    model = make(strides).eval()
    with torch.no_grad():
        (out,) = model(inputs((50, 75)))
    assert out["features"].shape == (18, 7, 10)


def test_losses_are_the_published_total():
    model = make().train()
    batch = inputs((64, 72), (57, 66))
    losses = model(batch)
    images = torch.cat([normalised(x["image"], (64, 72)) for x in batch])
    seeds = torch.full((2, 64, 72), 255, dtype=torch.uint8)
    seeds[0] = batch[0]["sem_seg"]
    seeds[1, :57, :66] = batch[1]["sem_seg"]
    expected = affinitynet_losses(model.affinity_features(images), seeds[:, 4::8, 4::8], 3)
    assert set(losses) == {"loss_bg_pos", "loss_fg_pos", "loss_neg"}
    assert sum(losses.values()).item() == pytest.approx(expected["total"].item(), rel=1e-5)
    assert losses["loss_neg"].item() == pytest.approx(expected["loss_neg"].item() / 2, rel=1e-5)


def test_backbone_learns_above_freeze_at():
    model = make().train()
    sum(model(inputs((64, 72))).values()).backward()
    learning = {
        ".".join(name.split(".")[:2]) for name, p in model.named_parameters() if p.grad is not None
    }
    assert learning == {
        *("backbone.res3", "backbone.res4", "backbone.res5"),
        *("levels.res3", "levels.res4", "levels.res5", "merge.weight"),
    }


def test_output_does_not_depend_on_the_batch():
    model = make().eval()
    batch = inputs((41, 53), (64, 72), (41, 53))
    with torch.no_grad():
        for x, found in zip(batch, model(batch)):
            (alone,) = model([{"image": x["image"]}])  # no seeds needed
            assert torch.equal(found["features"], alone["features"])


def test_it_learns_a_simple_scene():
    # A striped box of class 0 on gray: affinity must fall across its outline.
    image = torch.full((3, 96, 128), 120, dtype=torch.uint8)
    image[:, 24:64, 40:88] = 30
    image[:, 24:64, 40:88:4] = 220
    seeds = torch.zeros(96, 128, dtype=torch.uint8)
    seeds[24:64, 40:88] = 1
    batch = [{"image": image, "sem_seg": seeds}]
    model = make().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    totals = []
    for _ in range(60):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
    with torch.no_grad():
        features = model.eval()(batch)[0]["features"]
    # The losses know nothing of the last rows and columns.
    features, cells = features[:, :-2, 2:-2], seeds[4:-16:8, 20:-16:8]
    affinity = torch.exp(-(features[:, :, 1:] - features[:, :, :-1]).abs().mean(0))
    across = cells[:, 1:] != cells[:, :-1]
    assert affinity[across].mean() < affinity[~across].mean() - 0.2


def test_initial_weights_are_the_published_ones():
    torch.manual_seed(0)
    model = build_model(config(CHANNELS=(64, 128, 256)))
    for level in model.levels.values():
        assert level.bias is None
        assert level.weight.std().item() == pytest.approx(
            (2 / level.weight.shape[1]) ** 0.5, rel=0.1
        )
    bound = 4 * (6 / (2 * 448)) ** 0.5
    assert model.merge.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"CHANNELS": (4, 6)}, "CHANNELS has 2 numbers for the 3 features res3, res4, res5"),
        ({"IN_FEATURES": ("res2",)}, "names 'res2', but the backbone gives res3, res4, res5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_training_images_without_seeds_or_too_small():
    model = make().train()
    batch = inputs((64, 72))
    del batch[0]["sem_seg"]
    with pytest.raises(UserError, match="0.jpg came to training without 'sem_seg'"):
        model(batch)
    with pytest.raises(UserError, match="INPUT.IMAGE_LEVEL.CROP_SIZE"):
        model(inputs((16, 24)))
