"""Mask R-CNN with loss weights and regions to ignore, against the stock parts."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from wsis_d2.data import ImageRegion
from wsis_d2.engine import Trainer, load_config
from wsis_d2.modeling.noise_aware import NoiseAwareMaskHead, NoiseAwareOutputLayers

SIZE = (64, 96)
CLASSES = 3


@pytest.fixture(autouse=True)
def _storage():
    with EventStorage():
        yield


def model(noise_aware=True):
    torch.manual_seed(0)
    options = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.DEVICE": "cpu",
        "MODEL.MASK_ON": True,
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS": 16,
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES,
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "INPUT.MASK_FORMAT": "bitmask",
    }
    if noise_aware:
        options |= {
            "MODEL.PROPOSAL_GENERATOR.NAME": "NoiseAwareRPN",
            "MODEL.ROI_HEADS.NAME": "NoiseAwareROIHeads",
            "MODEL.ROI_MASK_HEAD.NAME": "NoiseAwareMaskHead",
        }
    return Trainer.build_model(load_config("", [x for item in options.items() for x in item]))


def targets(**fields):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 8:24, 8:30], masks[1, 30:60, 50:90] = True, True
    instances = Instances(SIZE, gt_classes=torch.tensor([0, 2]), gt_masks=BitMasks(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def region(y1, x1, y2, x2):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return ImageRegion(mask, 2)


def losses(model, **fields):
    torch.manual_seed(1)
    image = torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8)
    inputs = [{"image": image, "instances": targets(**fields)}, {"image": image.flip(2)}]
    empty = Instances(SIZE, gt_classes=torch.zeros(0, dtype=torch.int64))
    empty.gt_boxes, empty.gt_masks = Boxes(torch.zeros(0, 4)), BitMasks(torch.zeros(0, *SIZE) > 0)
    inputs[1]["instances"] = empty
    return model.train()(inputs)


def gradients(model, **fields):
    model.zero_grad()
    sum(losses(model, **fields).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_without_the_fields_the_model_is_stock_mask_rcnn():
    stock, ours = model(noise_aware=False), model()
    ours.load_state_dict(stock.state_dict())
    for key, value in losses(stock).items():
        assert torch.equal(value, losses(ours)[key])


def test_weights_of_one_and_an_empty_region_change_nothing():
    ours = model()
    plain = gradients(ours)
    same = gradients(ours, gt_weights=torch.ones(2), gt_ignore=region(0, 0, 0, 0))
    assert plain.keys() == same.keys()
    assert all(torch.allclose(plain[name], same[name], atol=1e-6) for name in plain)


def test_instances_of_weight_zero_teach_the_heads_nothing():
    ours = model()
    weighted = gradients(ours, gt_weights=torch.zeros(2))
    assert all(not g.any() for name, g in weighted.items() if "mask_head" in name)
    assert all(not g.any() for name, g in weighted.items() if "box_predictor.bbox" in name)
    assert weighted["roi_heads.box_predictor.cls_score.weight"].any()  # of the background


@pytest.mark.parametrize("reg_loss", ["smooth_l1", "giou"])
def test_box_losses_are_weighted_sums(reg_loss):
    torch.manual_seed(0)
    cfg = model().roi_heads.box_predictor
    layers = NoiseAwareOutputLayers(
        4, box2box_transform=cfg.box2box_transform, num_classes=CLASSES, box_reg_loss_type=reg_loss
    )
    boxes = torch.rand(6, 4) * 20
    boxes[:, 2:] += boxes[:, :2] + 5
    proposals = Instances(SIZE, proposal_boxes=Boxes(boxes), gt_boxes=Boxes(boxes + 1.5))
    proposals.gt_classes = torch.tensor([0, 2, CLASSES, 1, CLASSES, 0])
    proposals.gt_weights = torch.tensor([0.5, 2.0, 9.0, 0.0, 9.0, 1.0])
    without_instances = Instances(SIZE, proposal_boxes=Boxes(boxes[:2]))
    without_instances.gt_classes = torch.tensor([CLASSES, CLASSES])
    both = [proposals, without_instances]
    scores = torch.randn(8, CLASSES + 1, requires_grad=True)
    deltas = (torch.randn(8, 4 * CLASSES) * 0.1).requires_grad_()
    result = layers.losses((scores, deltas), both)
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # 1 for background

    (gradient,) = torch.autograd.grad(result["loss_cls"], scores)
    classes = torch.cat([p.gt_classes for p in both])
    terms = F.cross_entropy(scores, classes, reduction="none")
    assert torch.allclose(gradient, torch.autograd.grad((weights * terms).mean(), scores)[0])

    # The stock loss of one foreground proposal at a time.
    (gradient,) = torch.autograd.grad(result["loss_box_reg"], deltas)
    expected = torch.zeros_like(deltas)
    for i in (0, 1, 3, 5):
        one = FastRCNNOutputLayers.losses(
            layers, (scores[i, None], deltas[i, None]), [proposals[i]]
        )
        expected += weights[i] / 8 * torch.autograd.grad(one["loss_box_reg"], deltas)[0]
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_mask_loss_leaves_ignored_pixels_out_and_weighs_instances():
    torch.manual_seed(0)
    stock = model().roi_heads.mask_head
    proposals = targets(gt_weights=torch.tensor([0.25, 1.5]), gt_ignore=region(30, 50, 45, 90))
    proposals.proposal_boxes = proposals.gt_boxes  # the region is the second one's upper half
    x = torch.randn(2, 16, 14, 14)
    collected = {}

    def layers(features):
        collected["logits"] = MaskRCNNConvUpsampleHead.layers(stock, features).detach()
        collected["logits"].requires_grad_()
        return collected["logits"]

    stock.layers = layers
    assert isinstance(stock, NoiseAwareMaskHead)
    stock.train()(x, [proposals])["loss_mask"].backward()
    logits = collected["logits"]
    weights = torch.ones(2, 28, 28)
    weights[0], weights[1] = 0.25, 1.5
    weights[1, :14] = 0
    chosen = logits.detach()[[0, 1], [0, 2]].requires_grad_()
    labels = torch.ones(2, 28, 28)  # the boxes are tight around rectangles
    loss = F.binary_cross_entropy_with_logits(chosen, labels, reduction="none")
    (loss * weights).mean().backward()
    assert torch.allclose(logits.grad[[0, 1], [0, 2]], chosen.grad)
    assert logits.grad.abs().sum() == pytest.approx(chosen.grad.abs().sum().item())


def test_background_in_the_region_is_ignored():
    ours = model().train()
    ignore = region(0, 48, 64, 96)  # the right half, where one of the objects is
    instances = targets(gt_ignore=ignore)
    generator = ours.proposal_generator
    features = ours.backbone(torch.rand(1, 3, *SIZE))
    anchors = generator.anchor_generator([features[f] for f in generator.in_features])
    torch.manual_seed(2)
    (stock,), _ = RPN.label_and_sample_anchors(generator, anchors, [instances])
    torch.manual_seed(2)
    (labels,), _ = generator.label_and_sample_anchors(anchors, [instances])
    boxes = Boxes.cat(anchors).tensor
    for box, before, after in zip(boxes.tolist(), stock.tolist(), labels.tolist()):
        x1, x2 = max(round(box[0]), 0), min(round(box[2]), 96)
        inside = max(x2 - max(x1, 48), 0) / max(x2 - x1, 1)
        assert after == (-1 if before == 0 and inside > 0.5 else before)
    assert (stock == 0).sum() > (labels == 0).sum() > 0
    assert (labels == 1).any()

    proposals = Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=boxes[:, 0] * 0)
    sampled = ours.roi_heads.label_and_sample_proposals([proposals], [instances])[0]
    background = sampled.gt_classes == CLASSES
    assert background.any()
    left = sampled.proposal_boxes.tensor[background, 0]
    assert (left < 48).all()  # nothing that lies in the region as a whole
    assert (sampled.gt_classes == 2).any()  # the object there is trained on
    assert set(sampled.get_fields()) >= {"gt_ignore", "gt_masks"}
