import math

import pytest
import torch
import torch.nn.functional as F

from wsis_d2.labeling import instances_from_relations
from wsis_d2.labeling.irnet_labels import (
    cues_to_label_map,
    instance_scale,
    walk_instance_cams,
)


def two_squares(size=16):
    """Two squares, of one class, that a boundary surrounds; each pixel points to its centre."""
    boundary = torch.ones(size, size)
    displacement = torch.zeros(2, size, size)
    cam = torch.zeros(1, size, size)
    truth = []
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    for left in (1, 9):
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[5:11, left : left + 6] = True
        centre = torch.tensor([7.5, left + 2.5]).view(2, 1, 1)
        boundary[inside] = 0
        displacement = torch.where(inside, centre - grid, displacement)
        cam[0, 6, left + 1] = 1  # evidence at one pixel: the walk must spread it
        truth.append(F.interpolate(inside[None, None].float(), scale_factor=4)[0, 0].bool())
    return cam, boundary, displacement, truth


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


def test_the_walk_fills_each_object_and_displacement_tells_them_apart():
    cam, boundary, displacement, truth = two_squares()
    found = instances_from_relations(cam, torch.tensor([4]), boundary, displacement, (64, 64))
    assert found.pred_classes.tolist() == [4, 4]
    left_first = sorted(found.pred_masks, key=lambda m: int(m.any(0).float().argmax()))
    assert all(iou(m, t) > 0.85 for m, t in zip(left_first, truth, strict=True))
    assert found.scores[0] == pytest.approx(1, abs=1e-3)


def test_the_parts_can_be_left_out():
    cam, boundary, displacement, truth = two_squares()
    ids = torch.tensor([0])
    alone = instances_from_relations(cam, ids, None, None, (64, 64), min_area=0)
    assert len(alone) == 2  # two separate spots of evidence, not grown
    assert alone.pred_masks.sum() < 0.2 * sum(int(t.sum()) for t in truth)
    # One region of touching objects: only the displacement can split it.
    boundary[5:11, 7:9] = 0
    cam[0, 5:11, 1:15] = 0.5
    displacement[:, 5:11, 7] = displacement[:, 5:11, 6] - torch.tensor([0, 1.0]).view(2, 1)
    displacement[:, 5:11, 8] = displacement[:, 5:11, 9] + torch.tensor([0, 1.0]).view(2, 1)
    joined = instances_from_relations(cam, ids, boundary, None, (64, 64))
    split = instances_from_relations(cam, ids, boundary, displacement, (64, 64))
    assert (len(joined), len(split)) == (1, 2)


def test_numpy_arrays_are_taken_too():
    cam, boundary, displacement, _ = two_squares()
    arrays = [t.numpy() for t in (cam, torch.tensor([4]), boundary, displacement)]
    expected = instances_from_relations(cam, torch.tensor([4]), boundary, displacement, (64, 64))
    found = instances_from_relations(*arrays, (64, 64))
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.scores, expected.scores)


def test_semantic_labels_are_those_of_a_walk_of_whole_classes():
    torch.manual_seed(0)
    cam, boundary = torch.rand(3, 12, 14) ** 4, torch.rand(12, 14)
    displacement = torch.randn(2, 12, 14) * 3
    ids = torch.tensor([1, 5, 9])
    options = {"num_steps": 8, "radius": 4, "method": "dense"}
    split = walk_instance_cams(cam, ids, boundary, displacement, **options)
    whole = walk_instance_cams(cam, ids, boundary, None, **options)
    assert len(split.instance_scores) > len(whole.instance_scores) == 3
    labels = cues_to_label_map(split, (47, 55), 0.2, 4)
    # Written out once more from the whole classes.
    scores = F.interpolate(whole.instance_scores[None], scale_factor=4, mode="bilinear")[0]
    scores = scores[:, :47, :55] / whole.instance_scores.max()
    best, winner = scores.max(0)
    expected = torch.where(best > 0.2, ids[winner] + 1, 0)
    assert labels.dtype == torch.uint8
    assert (labels == expected).float().mean() > 0.999
    assert len(labels.unique()) > 1


def test_one_trapped_pixel_sets_the_scale_of_the_image_but_not_of_the_instances():
    scores = torch.full((2, 10, 10), 0.2)
    scores[1] = 0.1
    scores[0, 3, 3] = 100.0
    cams = torch.zeros(2, 10, 10)
    cams[0, 0, 0], cams[1, 5, 5] = 1.0, 0.8
    by_image = scores * instance_scale(scores, cams, "image", 0.05)
    by_instance = scores * instance_scale(scores, cams, "instance", 0.05)
    assert by_image[0, 0, 0] == pytest.approx(0.002)
    assert by_instance[0, 0, 0] == pytest.approx(1.0)
    assert by_instance[1, 0, 0] == pytest.approx(0.8)


def test_an_image_without_evidence_has_no_instance():
    cam, boundary, displacement, _ = two_squares()
    found = instances_from_relations(cam * 0, torch.tensor([4]), boundary, displacement, (64, 64))
    assert len(found) == 0
    with pytest.raises(ValueError, match="normalization"):
        instances_from_relations(
            cam, torch.tensor([4]), boundary, displacement, (64, 64), normalization="none"
        )


def test_sizes_that_the_stride_does_not_divide():
    cam, boundary, displacement, _ = two_squares()
    size = (61, 63)
    assert tuple(math.ceil(side / 4) for side in size) == tuple(boundary.shape)
    found = instances_from_relations(cam, torch.tensor([4]), boundary, displacement, size)
    assert found.image_size == size
    assert found.pred_masks.shape == (2, *size)
