"""The two branches of DensityPRM: shapes, supervision, stages."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.layers import peak_response_maps


def build(**density):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "DensityPRM"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.OUT_FEATURES = 18, "BN", ["res5"]
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = 8, 8
    resnets.STEM_MAX_POOL, resnets.STRIDES = False, [2, 2, 2, 1]
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 3
    cfg.MODEL.PRM.UPSAMPLE = 1
    for key, value in density.items():
        cfg.MODEL.DENSITY[key] = value
    torch.manual_seed(0)
    return build_model(cfg)


def inputs(*pairs, size=(32, 40)):
    """One image for each (labels, counts)."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "image_labels": torch.tensor(labels),
            "image_counts": torch.tensor(counts),
        }
        for labels, counts in pairs
    ]


def test_counts_are_the_sums_of_the_density_of_present_classes():
    model = build(CELLS=20.0).eval()
    batch = inputs(([0], [1]), ([1, 2], [5, 2]))
    with torch.no_grad():
        outputs = model(batch)
        images = model.preprocess(batch).tensor
        density = model.density_maps(images)
        (odd,) = model(inputs(([0], [1]), size=(30, 37)))
    assert density.shape == (2, 3, 4, 5)
    assert model.class_response_maps(images).shape == (2, 3, 4, 5)
    for output, maps in zip(outputs, density):
        shown = output["image_scores"] > 0.5
        expected = torch.where(shown, maps.sum((1, 2)).clamp(min=0), 0)
        torch.testing.assert_close(output["image_counts"], expected)
    assert odd["image_counts"].shape == (3,)
    # Batches of several sizes give what each image alone gives.
    together = model([*inputs(([0], [1]), size=(30, 37)), *inputs(([0], [1]))])
    torch.testing.assert_close(together[0]["image_counts"], odd["image_counts"])


def test_first_stage_has_no_spatial_losses():
    model = build(STAGE1_ITERS=2)
    batch = inputs(([0], [1]), ([1, 2], [5, 2]))
    losses = [model(batch) for _ in range(3)]
    for first in losses[:2]:
        assert (first["loss_sp_pos"], first["loss_sp_neg"]) == (0, 0)
    assert losses[2]["loss_sp_pos"] > 0
    assert losses[2]["loss_sp_neg"] > 0
    # Counts of absent classes enter with the second stage too.
    assert losses[2]["loss_mse"] != losses[0]["loss_mse"]
    assert set(losses[0]) == {"loss_cls", "loss_mse", "loss_rank", "loss_sp_pos", "loss_sp_neg"}
    assert model.state_dict()["num_steps"] == 3


def test_every_parameter_has_a_gradient_in_both_stages():
    # Else distributed training waits for ever.
    for stage1_iters in (0, 5):
        model = build(STAGE1_ITERS=stage1_iters)
        sum(model(inputs(([0], [5]), ([1], [5]))).values()).backward()
        assert all(p.grad is not None for p in model.parameters())


def test_beyond_the_range_nothing_but_the_rank_counts():
    model = build(RANK_WEIGHT=0.5, LOSS_WEIGHT=3.0)
    with torch.no_grad():
        model.density_head[1].weight.zero_()
        model.density_head[1].bias.fill_(196.0 / 20)  # 20 cells: every count is 1
    losses = model(inputs(([0, 1, 2], [5, 5, 5]), ([0, 1, 2], [5, 5, 5])))
    assert losses["loss_mse"] == 0
    assert losses["loss_rank"].item() == pytest.approx(3 * 0.5 * 4)
    assert (losses["loss_sp_pos"], losses["loss_sp_neg"]) == (0, 0)


def test_rare_absent_classes_are_drawn():
    model = build(ABSENT_FRACTION=0.25, RARE_FREQUENCY=0.3)
    present = torch.zeros(4000, 2, dtype=torch.bool)
    present[:400, 0] = present[:2000, 1] = True
    torch.manual_seed(0)
    drawn = model._draw_absent(present)
    assert not (drawn & present).any()
    assert drawn[:, 1].sum() == 2000
    assert drawn[:, 0].sum() / 3600 == pytest.approx(0.25, abs=0.03)
    assert torch.equal(build()._draw_absent(present), ~present)


def test_peak_backpropagation_through_the_category_branch():
    model = build().eval()
    image = model.preprocess(inputs(([0], [1]))).tensor
    maps = model.class_response_maps(image)
    _, peaks, responses = model.stimulate(maps)
    assert len(peaks) == len(responses) > 0
    responses = peak_response_maps(model.class_response_maps, image, peaks[:3], model.upsample)
    assert responses.shape == (3, 32, 40)
    assert (responses >= 0).all()


@pytest.mark.parametrize("counts", [None, [0], [1, 1]])
def test_training_without_counts(counts):
    batch = inputs(([1], counts or [1]))
    if counts is None:
        del batch[0]["image_counts"]
    with pytest.raises(UserError, match="without the counts of its labels"):
        build()(batch)


def test_training_on_images_of_several_sizes():
    batch = [*inputs(([1], [1])), *inputs(([1], [1]), size=(32, 32))]
    with pytest.raises(UserError, match="whole images of one size"):
        build()(batch)
