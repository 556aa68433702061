"""Masks that snap to proposals, against brute force."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from wsis_d2.labeling import LabelRefinement, ProposalRefinement, refine_instances
from wsis_d2.proposals import MaskProposals

SIZE = (24, 30)


def random_masks(rng, count):
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks:
        y, x = rng.integers(0, 14, 2)
        mask[y : y + rng.integers(3, 10), x : x + rng.integers(3, 14)] = True
        mask &= rng.random(SIZE) < 0.9
    return masks


def predictions(rng, count):
    masks = torch.from_numpy(random_masks(rng, count))
    return Instances(
        SIZE,
        pred_masks=masks,
        pred_boxes=Boxes(torch.rand(count, 4)),  # as a network's, not those of the masks
        scores=torch.rand(count),
        pred_classes=torch.randint(3, (count,)),
    )


def brute_force(masks, boxes, proposals, min_iou):
    refined_masks, refined_boxes = [], []
    for mask, box in zip(masks, boxes):
        ious = [(mask & p).sum() / (mask | p).sum() for p in proposals]
        if max(ious) > min_iou:
            mask = proposals[int(np.argmax(ious))]
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        refined_masks.append(mask)
        refined_boxes.append(np.asarray(box, float))
    return refined_masks, refined_boxes


@pytest.mark.parametrize("min_iou", [0.0, 0.3, 0.6, 1.0])
def test_every_mask_becomes_the_proposal_of_highest_jaccard_index(min_iou):
    rng = np.random.default_rng(0)
    for _ in range(10):
        instances = predictions(rng, 5)
        proposals = MaskProposals.from_masks(random_masks(rng, 40), rng.random(40))
        masks, boxes = brute_force(
            instances.pred_masks.numpy(),
            instances.pred_boxes.tensor.numpy(),
            proposals.decode(),
            min_iou,
        )
        before = instances.pred_masks.clone()
        refined = refine_instances(instances, proposals, min_iou)
        assert (refined.pred_masks.numpy() == np.stack(masks)).all()
        assert np.allclose(refined.pred_boxes.tensor.numpy(), np.stack(boxes))
        assert torch.equal(refined.scores, instances.scores)
        assert torch.equal(refined.pred_classes, instances.pred_classes)
        assert torch.equal(instances.pred_masks, before)  # the input stays


def test_a_mask_that_no_proposal_overlaps_stays():
    mask, proposal = np.zeros((2, 1, *SIZE), bool)
    mask[0, :5, :5], proposal[0, 10:, 10:] = True, True
    instances = Instances(SIZE, pred_masks=torch.from_numpy(mask))
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    refined = refine_instances(instances, MaskProposals.from_masks(proposal, [1.0]))
    assert (refined.pred_masks.numpy() == mask).all()
    assert refined.pred_boxes.tensor.tolist() == [[0, 0, 5, 5]]


@pytest.mark.parametrize(("count", "num_proposals"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_refine(count, num_proposals):
    rng = np.random.default_rng(1)
    instances = predictions(rng, count)
    proposals = MaskProposals.from_masks(random_masks(rng, num_proposals), np.ones(num_proposals))
    refined = refine_instances(instances, proposals)
    assert torch.equal(refined.pred_masks, instances.pred_masks)
    assert torch.equal(refined.pred_boxes.tensor, instances.pred_boxes.tensor)


class Model(torch.nn.Module):
    def forward(self, batched_inputs):
        rng = np.random.default_rng(2)
        return [{"instances": predictions(rng, 3), "other": x["image_id"]} for x in batched_inputs]


class Source:
    def get(self, x):
        rng = np.random.default_rng(x["image_id"])
        return MaskProposals.from_masks(random_masks(rng, 20), rng.random(20))


def test_any_model_may_be_wrapped():
    model = Model().eval()
    refinement = ProposalRefinement(model, Source())
    assert not refinement.training
    inputs = [{"image_id": 3}, {"image_id": 4}]
    plain = model(inputs)
    for x, output, before in zip(inputs, refinement(inputs), plain):
        assert output["other"] == x["image_id"]
        expected = refine_instances(before["instances"], Source().get(x))
        assert torch.equal(output["instances"].pred_masks, expected.pred_masks)
    refinement.train()
    assert model.training


@pytest.mark.parametrize(("class_agnostic", "kept"), [(False, [2, 1, 3]), (True, [2, 3])])
def test_labels_that_become_alike_are_one(class_agnostic, kept):
    whole, other = np.zeros((2, *SIZE), bool)
    whole[2:12, 2:12] = other[14:22, 14:28] = True
    parts = np.zeros((4, *SIZE), bool)
    parts[0, 2:8, 2:12] = parts[1, 2:12, 2:8] = parts[2, 5:12, 2:12] = parts[3, 15:22, 14:28] = True
    instances = Instances(
        SIZE,
        pred_masks=torch.from_numpy(parts),
        pred_boxes=BitMasks(torch.from_numpy(parts)).get_bounding_boxes(),
        scores=torch.tensor([0.3, 0.5, 0.9, 0.2]),
        pred_classes=torch.tensor([0, 1, 0, 1]),
    )

    class Fixed:
        def get(self, x):
            return MaskProposals.from_masks(np.stack([whole, other]), [0.1, 0.9])

    refined = LabelRefinement(Fixed(), class_agnostic_nms=class_agnostic)({}, instances)
    assert torch.equal(refined.scores, instances.scores[kept])
    assert torch.equal(refined.pred_classes, instances.pred_classes[kept])
    expected = np.stack([other if i == 3 else whole for i in kept])
    assert np.array_equal(refined.pred_masks.numpy(), expected)
    boxes = [[14, 14, 28, 22] if i == 3 else [2, 2, 12, 12] for i in kept]
    assert refined.pred_boxes.tensor.tolist() == boxes
