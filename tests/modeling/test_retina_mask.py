"""RetinaMask: losses by their formulas, regions by a loop, results, and what it can learn."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.modeling import RetinaMask

NUM_CLASSES = 3


def config(*options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "RetinaMask"]
        + ["MODEL.PIXEL_STD", [57.0, 57.0, 57.0]]
        + ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0]
        + ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32]
        + ["MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.NORM", "BN"]
        + ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
        + ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]]
        + ["MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "BN"]
        + ["MODEL.ANCHOR_GENERATOR.SIZES", [[16, 24], [32, 48], [64, 96]]]
        + ["MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5"]]
        + ["MODEL.RETINANET.NUM_CLASSES", NUM_CLASSES, "MODEL.RETINANET.NORM", "BN"]
        + ["MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", 0.11]
        + ["MODEL.RETINAMASK.IN_FEATURES", ("p2", "p3")]
        + ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
        + ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32]
        + ["MODEL.ROI_MASK_HEAD.NORM", "BN", *options]
    )
    return cfg


def make(*options):
    torch.manual_seed(0)
    return build_model(config(*options))


def scene(boxes, size=(96, 128), masks=BitMasks):
    """Flat discs on noise, their classes 0, 1, 2, 0, ...; no object: no ``gt_masks``, as stock."""
    generator = torch.Generator().manual_seed(len(boxes))
    image = torch.randint(90, 110, (3, *size), generator=generator, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % NUM_CLASSES
    drawn = []
    for (x0, y0, x1, y1), color in zip(boxes, instances.gt_classes):
        u, v = (2 * x - x0 - x1 + 1) / (x1 - x0), (2 * y - y0 - y1 + 1) / (y1 - y0)
        drawn.append(u**2 + v**2 <= 1)
        image[:, drawn[-1]] = 10
        image[color, drawn[-1]] = 240
    if boxes and masks is BitMasks:
        instances.gt_masks = BitMasks(torch.stack(drawn))
    elif boxes:
        instances.gt_masks = PolygonMasks([[_ring(box)] for box in boxes])
    return {"image": image, "instances": instances, "file_name": "scene.png"}


def _ring(box):
    x0, y0, x1, y1 = (float(side) for side in box)
    return [x0, (y0 + y1) / 2, (x0 + x1) / 2, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1]


BOXES = [(10, 12, 42, 40), (60, 30, 116, 84), (90, 4, 110, 26)]


def train_step(model, batch):
    with EventStorage():
        return model(batch)


@pytest.mark.parametrize("masks", [BitMasks, PolygonMasks])
def test_gradients_reach_every_parameter(masks):
    model = make().train()
    losses = train_step(model, [scene(BOXES, masks=masks), scene(BOXES[:1], (80, 100), masks)])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for part in ("backbone", "head", "mask_head"):
        parameters = getattr(model, part).parameters()
        assert max(p.grad.abs().max() for p in parameters) > 0, part


def test_images_without_objects():
    model = make().train()
    for batch in ([scene([]), scene(BOXES)], [scene([]), scene([])]):
        losses = train_step(model, batch)
        assert all(loss.isfinite() for loss in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        # Also those of the heads that had nothing to learn from: DDP waits for all of them.
        assert all(p.grad is not None for p in model.parameters())
    assert losses["loss_box_reg"].item() == losses["loss_mask"].item() == 0
    assert all(buffer.isfinite().all() for buffer in model.mask_head.buffers())


def positive_errors(model, batch):
    """|prediction - target| of the box deltas of all positive anchors, (M, 4), one by one."""
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    features = [features[name] for name in model.head_in_features]
    _, deltas = model.head(features)
    anchors = model.anchor_generator(features)
    labels, boxes = model.label_anchors(anchors, [x["instances"] for x in batch])
    errors = []
    for i in range(len(batch)):
        # Anchors vary fastest, then columns, then rows.
        rows = [d[i].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4) for d in deltas]
        for anchor, delta, label, box in zip(
            Boxes.cat(anchors).tensor, torch.cat(rows), labels[i], boxes[i]
        ):
            if 0 <= label < NUM_CLASSES:
                (ax0, ay0, ax1, ay1), (x0, y0, x1, y1) = anchor, box
                w, h = ax1 - ax0, ay1 - ay0
                shift = 10 * (x0 + x1 - ax0 - ax1) / 2 / w, 10 * (y0 + y1 - ay0 - ay1) / 2 / h
                scale = 5 * ((x1 - x0) / w).log(), 5 * ((y1 - y0) / h).log()
                errors.append((delta - torch.stack([*shift, *scale])).abs())
    return torch.stack(errors).detach()


def test_box_loss_by_its_formula():
    model = make("MODEL.RETINANET.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)).train()
    batch = [scene(BOXES), scene(BOXES[:2])]
    errors = positive_errors(model, batch)
    beta = (0.9 * 0.11 + 0.1 * errors.mean(0) - 0.1 * errors.var(0)).clamp(1e-3, 0.11)
    total = sum(
        F.smooth_l1_loss(column, torch.zeros_like(column), reduction="sum", beta=b.item())
        for column, b in zip(errors.T, beta)
    )
    normalizer = 0.9 * 100 + 0.1 * len(errors)  # stock RetinaNet's
    loss = train_step(model, batch)["loss_box_reg"]
    assert loss.item() == pytest.approx(0.25 * total.item() / normalizer, rel=1e-4)
    assert model.box_loss.control_points.tolist() == pytest.approx(beta.tolist(), rel=1e-4)


def test_without_its_own_parts_it_trains_as_retinanet():
    options = ("MODEL.RETINAMASK.SELF_ADJUSTING_SMOOTH_L1", False)
    options += ("MODEL.RETINAMASK.BOX_LOSS_WEIGHT", 1.0)
    # Anchors fit these boxes; 32 x 32 pixels are one cell of p5, where a reshaped map is a view.
    batch = [scene([(4, 4, 28, 28)], (32, 32)), scene([(0, 8, 16, 24)], (32, 32))]
    gradients = []
    for name in ("RetinaMask", "RetinaNet"):
        # All detections pass, so that the mask branch has squashed every logit.
        model = make(*options, "MODEL.META_ARCHITECTURE", name).train()
        model.test_score_thresh = 0.0
        losses = train_step(model, batch)
        (losses["loss_cls"] + losses["loss_box_reg"]).backward()
        gradients.append({n: p.grad for n, p in model.head.named_parameters()})
        gradients[-1]["losses"] = torch.stack([losses["loss_cls"], losses["loss_box_reg"]])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        assert torch.allclose(gradients[0][name], gradient, atol=1e-6), name


def test_mask_regions_by_a_loop():
    model = make("MODEL.RETINAMASK.TRAIN_DETECTIONS", 4)
    truth = scene(BOXES)["instances"]
    truth.gt_weights = torch.tensor([0.1, 0.2, 0.3])  # other fields come along
    detections = Instances((96, 128))
    found = [(10, 12, 42, 30), (0, 0, 9, 9), (58, 34, 110, 80), (8, 8, 40, 44), (10, 12, 42, 40)]
    detections.pred_boxes = Boxes(torch.tensor(found, dtype=torch.float32))
    regions = model._mask_training_regions(detections, truth)

    def iou(a, b):
        width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
        area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return width * height / (area - width * height)

    expected = []
    for box in found[:4] + BOXES:
        overlaps = [iou(box, other) for other in BOXES]
        if max(overlaps) >= 0.5:
            expected.append((box, overlaps.index(max(overlaps))))
    assert len(expected) == 6
    assert regions.proposal_boxes.tensor.tolist() == [list(map(float, box)) for box, _ in expected]
    assert regions.gt_classes.tolist() == [i % NUM_CLASSES for _, i in expected]
    assert torch.equal(regions.gt_weights, truth.gt_weights[[i for _, i in expected]])
    for mask, (_, i) in zip(regions.gt_masks.tensor, expected):
        assert torch.equal(mask, truth.gt_masks.tensor[i])


def test_results_are_those_of_any_instance_segmentation():
    model = make("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 7).eval()
    batch = [{**scene(BOXES), "height": 150, "width": 201}, scene([], (64, 70))]
    with torch.no_grad():
        results = [x["instances"] for x in model(batch)]
    for found, size in zip(results, [(150, 201), (64, 70)]):
        assert found.image_size == size
        assert 0 < len(found) <= 7
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert set(found.pred_classes.tolist()) <= set(range(NUM_CLASSES))
        x0, y0, x1, y1 = found.pred_boxes.tensor.T
        assert min(x0.min(), y0.min()) >= 0
        assert x1.max() <= size[1]
        assert y1.max() <= size[0]


def test_no_detection_at_all():
    model = make("MODEL.RETINANET.SCORE_THRESH_TEST", 1.0).eval()
    with torch.no_grad():
        for x in model([scene(BOXES), scene([])]):
            assert len(x["instances"]) == 0
            assert x["instances"].pred_masks.shape == (0, 96, 128)


def mask_iou(a, b):
    return ((a & b).sum() / (a | b).sum()).item()


def test_it_learns_two_images():
    model = make().train()
    batch = [scene(BOXES), scene([(20, 30, 70, 60), (74, 10, 102, 60)])]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        loss = sum(train_step(model, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        results = [x["instances"] for x in model.eval()(batch)]
    for found, x in zip(results, batch):
        truth = x["instances"]
        best = found[: len(truth)]  # the most confident
        assert sorted(best.pred_classes.tolist()) == sorted(truth.gt_classes.tolist())
        for mask, label in zip(truth.gt_masks.tensor, truth.gt_classes):
            (same,) = best.pred_masks[best.pred_classes == label]
            assert mask_iou(mask, same) > 0.75


def test_explicit_arguments_are_enough():
    """As a LazyConfig gives them: no cfg node, stock matcher and stock box loss."""
    arguments = RetinaMask.from_config(config())
    for name in ("box_loss", "box_loss_weight", "mask_iou_threshold", "mask_train_detections"):
        del arguments[name]
    arguments["anchor_matcher"] = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    model = RetinaMask(**arguments).train()
    losses = train_step(model, [scene(BOXES)])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert "box_loss.running_mean" not in model.state_dict()


def test_statistics_are_in_the_checkpoint():
    model = make().train()
    train_step(model, [scene(BOXES)])
    state = model.state_dict()
    assert not torch.equal(state["box_loss.running_mean"], torch.full((4,), 0.11))
    fresh = make()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.box_loss.control_points, model.box_loss.control_points)


def test_mask_head_has_retinanets_classes():
    assert make().mask_head.predictor.out_channels == NUM_CLASSES
    agnostic = make("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    assert agnostic.mask_head.predictor.out_channels == 1
    assert train_step(agnostic.train(), [scene(BOXES)])["loss_mask"].isfinite()


def test_unknown_feature_is_refused():
    with pytest.raises(UserError, match="MODEL.RETINAMASK.IN_FEATURES names 'p7'"):
        make("MODEL.RETINAMASK.IN_FEATURES", ("p3", "p7"))


def train_in_two_processes(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(
        make("MODEL.RETINANET.SCORE_THRESH_TEST", 0.5).train(), broadcast_buffers=False
    )
    # One of the processes has no object to learn boxes and masks from.
    for batch in ([scene(BOXES if rank == 0 else [])], [scene(BOXES if rank == 1 else [])]):
        model.zero_grad()
        sum(train_step(model, batch).values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    statistics = model.module.box_loss.state_dict()
    torch.save({"gradients": gradients, "statistics": statistics}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    mp.start_processes(train_in_two_processes, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{i}.pth", weights_only=True) for i in range(2))
    for part in ("gradients", "statistics"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert first["statistics"]["running_mean"].max() > 0.11
