"""HFMask2Former: transformers' own model is the reference of its losses; results by hand."""

import shutil
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.evaluation import evaluate_instance_masks
from wsis_d2.modeling.mask2former import instances_from_queries
from wsis_d2.structures import encode_mask
from wsis_d2.weights.checkpoint import WSISCheckpointer

transformers = pytest.importorskip("transformers")

NUM_CLASSES = 3
SIZES = {
    "num_queries": 7,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 48,
    "decoder_layers": 3,
    "dim_feedforward": 40,
    "train_num_points": 300,
}


def config(*options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "HFMask2Former"]
        + ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0]
        + ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32]
        + ["MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.NORM", "BN"]
        + ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
        + ["MODEL.PIXEL_MEAN", [120.0, 110.0, 100.0], "MODEL.PIXEL_STD", [57.0, 58.0, 59.0]]
        + ["MODEL.MASK2FORMER.NUM_CLASSES", NUM_CLASSES, "MODEL.MASK2FORMER.HIDDEN_DIM", 32]
        + ["MODEL.MASK2FORMER.NUM_QUERIES", 7, "MODEL.MASK2FORMER.ENCODER_LAYERS", 1]
        + ["MODEL.MASK2FORMER.ENCODER_FEEDFORWARD_DIM", 48]
        + ["MODEL.MASK2FORMER.DECODER_LAYERS", 3, "MODEL.MASK2FORMER.FEEDFORWARD_DIM", 40]
        + ["MODEL.MASK2FORMER.TRAIN_NUM_POINTS", 300, *options]
    )
    return cfg


def make(*options):
    torch.manual_seed(0)
    return build_model(config(*options))


def scene(boxes, size=(64, 96), masks=BitMasks):
    """Rectangles on noise, their classes 0, 1, 2, 0, ...; no object: no ``gt_masks``, as stock."""
    generator = torch.Generator().manual_seed(len(boxes))
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % NUM_CLASSES
    drawn = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(drawn, boxes):
        mask[y0:y1, x0:x1] = True
    if boxes and masks is BitMasks:
        instances.gt_masks = BitMasks(drawn)
    elif boxes:
        polygons = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes]
        instances.gt_masks = PolygonMasks(polygons)
    return {"image": image, "instances": instances, "file_name": "scene.png"}


BOXES = [(10, 12, 42, 40), (50, 20, 90, 60), (70, 4, 96, 18)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A Mask2Former of transformers, on a small Swin, with random weights; and its folder."""
    backbone = transformers.SwinConfig(
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 3],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = transformers.Mask2FormerForUniversalSegmentation(
            transformers.Mask2FormerConfig(
                backbone_config=backbone, num_labels=NUM_CLASSES, **widths, **SIZES
            )
        )
        with torch.no_grad():
            for parameter in network.parameters():  # none is 0 or 1
                parameter += 0.05 * torch.randn_like(parameter)
    folder = str(tmp_path_factory.mktemp("mask2former"))
    network.save_pretrained(folder)
    return network, folder


@pytest.fixture(scope="module")
def loaded(published):
    """Ours with the same weights."""
    _, folder = published
    names = ["MODEL.TRANSFORMERS.NAME", folder]
    model = make("MODEL.BACKBONE.NAME", "build_transformers_backbone", *names)
    WSISCheckpointer(model, meta_architecture="HFMask2Former", exact=True).load(folder)
    return model


def padded_batch(batch, height, width):
    """What transformers' model takes: normalised images, masks and classes, zero-padded by hand."""
    mean = torch.tensor([120.0, 110.0, 100.0])[:, None, None]
    std = torch.tensor([57.0, 58.0, 59.0])[:, None, None]
    pixels, masks, classes = torch.zeros(len(batch), 3, height, width), [], []
    for image, x in zip(pixels, batch):
        true, (h, w) = x["instances"], x["image"].shape[-2:]
        image[:, :h, :w] = (x["image"] - mean) / std
        masks.append(torch.zeros(len(true), height, width))
        if len(true):
            masks[-1][:, :h, :w] = true.gt_masks.tensor
        classes.append(true.gt_classes)
    return {"pixel_values": pixels, "mask_labels": masks, "class_labels": classes}


@pytest.mark.parametrize("second", [BOXES[:1], []])
def test_losses_and_gradients_are_those_of_transformers(published, loaded, monkeypatch, second):
    network, _ = published
    batch = [scene(BOXES), scene(second, (50, 70))]
    expected = {}
    stock = network.get_loss_dict
    monkeypatch.setattr(
        network, "get_loss_dict", lambda **x: expected.update(stock(**x)) or expected
    )
    torch.manual_seed(2)  # points are drawn
    network.train().zero_grad()
    total = network(**padded_batch(batch, 64, 96)).loss
    total.backward()
    torch.manual_seed(2)
    loaded.train().zero_grad()
    losses = loaded(batch)
    assert losses.keys() == expected.keys()
    assert len(losses) == 3 * 3
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4), name
    assert sum(losses.values()).item() == pytest.approx(total.item(), rel=1e-5)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in loaded.parameters() if p.requires_grad)  # as DDP asks
    pixels = network.model.pixel_level_module
    for ours, theirs in (
        (loaded.backbone.network, pixels.encoder),
        (loaded.head.pixel_decoder, pixels.decoder),
        (loaded.head.transformer_module, network.model.transformer_module),
        (loaded.head.class_predictor, network.class_predictor),
    ):
        expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
        gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-4), name


@torch.no_grad()
def test_predictions_are_those_of_transformers(published, loaded):
    network, _ = published
    x = scene(BOXES, (50, 70))
    output = network.eval()(padded_batch([x], 64, 96)["pixel_values"])
    (result,) = loaded.eval()([{**x, "height": 100, "width": 140}])
    found = result["instances"]
    expected = instances_from_queries(
        output.class_queries_logits[0],
        output.masks_queries_logits[0],
        (64, 96),
        (50, 70),
        (100, 140),
    )
    assert found.image_size == (100, 140)
    assert len(found) == 7 * NUM_CLASSES
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-4


@pytest.mark.parametrize("backbone", ["build_resnet_backbone", "build_timm_backbone"])
@pytest.mark.parametrize("num_objects", [3, 0])
def test_gradients_reach_every_parameter(backbone, num_objects):
    if backbone == "build_timm_backbone":
        pytest.importorskip("timm")
    model = make("MODEL.BACKBONE.NAME", backbone, "MODEL.TIMM.NAME", "resnet10t").train()
    losses = model([scene(BOXES[:num_objects]), scene([], (50, 70))])
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 100
    for name, parameter in trained.items():  # DDP waits for all of them
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (losses["loss_mask"].item() > 0) == (num_objects > 0)


def test_more_objects_than_queries():
    boxes = [(8 * i, 8, 8 * i + 8, 40) for i in range(12)]
    losses = make().train()([scene(boxes)])
    assert all(loss.isfinite() for loss in losses.values())


def test_polygons_are_the_masks_that_they_enclose():
    model = make().train()
    losses = []
    for masks in (BitMasks, PolygonMasks):
        torch.manual_seed(3)
        losses.append(model([scene(BOXES, masks=masks)]))
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=1e-5), name


def test_losses_of_mixed_precision_are_float32():
    model = make().train()
    batch = [scene(BOXES)]
    torch.manual_seed(4)
    full = model(batch)
    torch.manual_seed(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch)
    for name, loss in half.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(full[name].item(), rel=0.1), name


def band(size, first, last):
    """Logits of +-8 of a map whose columns first..last - 1 are the object."""
    logits = torch.full(size, -8.0)
    logits[:, first:last] = 8.0
    return logits


def class_logits(*probabilities):
    return torch.tensor(probabilities).log()


def test_a_perfect_mask_comes_back_at_the_original_size():
    """Stride 4 of a 64 x 64 input whose upper left 40 x 56 are the image of 80 x 112 pixels."""
    logits = torch.stack([band((16, 16), 2, 5), band((16, 16), 9, 16)])
    sizes = ((64, 64), (40, 56), (80, 112))
    found = instances_from_queries(class_logits([0.9, 0.1], [0.8, 0.2]), logits, *sizes)
    expected = torch.zeros(2, 80, 112, dtype=torch.bool)
    expected[0, :, 16:40] = True  # cells of 4 pixels, each two of the result
    expected[1, :, 72:] = True  # reaches into the padding
    assert found.pred_masks.dtype == torch.bool
    by_position = found[found.pred_boxes.tensor[:, 0].argsort()]
    assert torch.equal(by_position.pred_masks, expected)
    assert by_position.pred_boxes.tensor.tolist() == [[16, 0, 40, 80], [72, 0, 112, 80]]


def test_a_square_at_the_inputs_own_size():
    square = torch.full((1, 32, 48), -8.0)
    square[0, 5:12, 20:33] = 8.0
    found = instances_from_queries(class_logits([0.9, 0.1]), square, *[(32, 48)] * 3)
    assert torch.equal(found.pred_masks, square > 0)


def test_scores_are_class_times_mask_probability():
    logits = torch.full((3, 4, 4), -3.0)
    logits[0, 0, :2] = torch.tensor([1.0, 2.0])
    logits[1] = 0.5
    probabilities = [0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.4, 0.5, 0.1]
    sizes = [(4, 4)] * 3
    found = instances_from_queries(class_logits(*probabilities), logits, *sizes)
    sigmoid = torch.sigmoid(torch.tensor([1.0, 2.0, 0.5])).tolist()
    first, second = (sigmoid[0] + sigmoid[1]) / 2, sigmoid[2]
    # Of query and class; the third query has no pixel, and scores nothing.
    expected = {
        (0, 0): 0.2 * first,
        (0, 1): 0.5 * first,
        (1, 0): 0.6 * second,
        (1, 1): 0.1 * second,
        (2, 1): 0.0,
        (2, 0): 0.0,
    }
    ranked = sorted(expected.items(), key=lambda item: -item[1])
    assert found.scores.tolist() == pytest.approx([score for _, score in ranked], rel=1e-5)
    assert found.pred_classes.tolist() == [c for (_, c), _ in ranked]
    assert [int(m.sum()) for m in found.pred_masks] == [(2, 16, 0)[q] for (q, _), _ in ranked]
    # The limit looks at the class alone.
    (best,) = instances_from_queries(class_logits(*probabilities), logits, *sizes, 1).scores
    assert best.item() == pytest.approx(expected[1, 0])


def in_two_processes(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(make().train())
    # One of the processes has nothing but background.
    batch = [scene(BOXES)] if rank == 0 else [scene([])]
    count = model.module.head.criterion.get_num_masks([batch[0]["instances"].gt_classes], "cpu")
    sum(model(batch).values()).backward()
    gradient = model.module.head.class_predictor.weight.grad
    torch.save((count, gradient), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_masks_are_counted_over_all_processes(tmp_path):
    mp.start_processes(in_two_processes, (str(tmp_path),), nprocs=2, start_method="fork")
    (count, gradient), (other_count, other_gradient) = (
        torch.load(tmp_path / f"{rank}.pth") for rank in range(2)
    )
    assert count == other_count == 1.5
    assert torch.equal(gradient, other_gradient)


def picture(boxes, size=(64, 64)):
    """A :func:`scene` whose objects show their class by their color."""
    x = scene(boxes, size)
    x["image"] = 90 + x["image"] % 20
    for mask, color in zip(x["instances"].gt_masks.tensor, x["instances"].gt_classes):
        x["image"][:, mask] = 10
        x["image"][color, mask] = 240
    return x


@pytest.mark.slow
def test_learns_two_pictures_by_heart():
    boxes = [(6, 8, 30, 28), (36, 30, 60, 58)], [(8, 30, 40, 60), (40, 4, 60, 24), (4, 4, 24, 20)]
    batch = [picture(each) for each in boxes]
    model = make("MODEL.MASK2FORMER.HIDDEN_DIM", 64).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=120, pct_start=0.2)
    for _ in range(120):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        results = [result["instances"] for result in model.eval()(batch)]
    found = [records(i, r.pred_masks, r.pred_classes, r.scores) for i, r in enumerate(results)]
    true = [x["instances"] for x in batch]
    truth = [records(i, t.gt_masks.tensor, t.gt_classes) for i, t in enumerate(true)]
    metrics = evaluate_instance_masks(sum(found, []), sum(truth, []))
    assert metrics["AP50"] > 90


def records(image_id, masks, classes, scores=None):
    """COCO's dicts of an image's masks."""
    found = [
        {"image_id": image_id, "category_id": int(c), "segmentation": encode_mask(mask.numpy())}
        for mask, c in zip(masks, classes)
    ]
    for record, score in zip(found, scores if scores is not None else ()):
        record["score"] = float(score)
    return found


def test_a_checkpoint_does_not_decide_on_the_weight_of_no_object():
    state = make("MODEL.MASK2FORMER.NO_OBJECT_WEIGHT", 0.5).state_dict()
    model = make("MODEL.MASK2FORMER.NO_OBJECT_WEIGHT", 0.25)
    model.load_state_dict(state)
    assert model.head.criterion.empty_weight.tolist() == [1, 1, 1, 0.25]


def test_pretrained_heads_start_other_classes_and_backbones(published):
    network, folder = published
    model = make("MODEL.MASK2FORMER.NUM_CLASSES", 5)
    before = model.backbone.stem.conv1.weight.clone()
    WSISCheckpointer(model, meta_architecture="HFMask2Former", classes=list("abcde")).load(folder)
    queries = network.model.transformer_module.queries_features.weight
    assert torch.equal(model.head.transformer_module.queries_features.weight, queries)
    assert torch.equal(model.backbone.stem.conv1.weight, before)
    assert model.head.class_predictor.weight.shape == (6, 32)


def test_a_file_that_lacks_weights_is_not_the_whole_network(published, loaded, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    _, folder = published
    weights = safetensors.load_file(f"{folder}/model.safetensors")
    del weights["class_predictor.weight"]
    safetensors.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    shutil.copy(f"{folder}/config.json", tmp_path)
    with pytest.raises(UserError, match=r"lacks 1 of .*'head.class_predictor.weight'"):
        WSISCheckpointer(loaded, meta_architecture="HFMask2Former", exact=True).load(str(tmp_path))


def test_transformers_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"HFMask2Former.*pip install wsis_d2\[sam\]"):
        make()
    with pytest.raises(UserError, match=r"MODEL.TRANSFORMERS.NAME.*pip install wsis_d2\[sam\]"):
        make("MODEL.BACKBONE.NAME", "build_transformers_backbone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.MASK2FORMER.HIDDEN_DIM", 100], "HIDDEN_DIM is 100: .*multiple of 32"),
        (["MODEL.MASK2FORMER.IN_FEATURES", ("res4", "res5")], "names 2 features: name four"),
        (["MODEL.MASK2FORMER.IN_FEATURES", ("p2", "p3", "p4", "p5")], "names 'p2', but"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make(*options)


def test_a_backbone_that_is_none(tmp_path):
    options = ["MODEL.BACKBONE.NAME", "build_transformers_backbone"]
    with pytest.raises(UserError, match="no backbone can be built"):
        make(*options, "MODEL.TRANSFORMERS.NAME", str(tmp_path))
