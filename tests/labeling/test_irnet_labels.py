import math

import pytest
import torch
import torch.nn.functional as F
from dispatched_calls import DispatchedCalls

from wsis_d2.labeling import instances_from_relations, irnet_walk
from wsis_d2.labeling.irnet import (
    RING_CELLS,
    cam_contrast,
    cues_to_instances,
    cues_to_label_map,
)
from wsis_d2.labeling.irnet_walk import (
    IRNetCues,
    find_winners,
    instance_scale,
    upsampled_maximum,
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
    scores = scores[:, :47, :55] / scores[:, :47, :55].max()
    best, winner = scores.max(0)
    expected = torch.where(best > 0.2, ids[winner] + 1, 0)
    assert labels.dtype == torch.uint8
    assert (labels == expected).float().mean() > 0.999
    assert len(labels.unique()) > 1


def parts_by_one_hot(cam, class_ids, clusters):
    """Every class in every cluster, then those with any evidence."""
    one_hot = F.one_hot(clusters).movedim(-1, 0).to(cam.dtype)
    parts = (cam[:, None] * one_hot).flatten(0, 1)
    present = parts.flatten(1).amax(1) > 0
    return parts[present], class_ids.repeat_interleave(one_hot.shape[0])[present]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instance_cams_are_those_of_all_pairs_with_evidence(share, dtype):
    torch.manual_seed(0)
    cam = torch.rand(4, 21, 18, dtype=dtype) * (torch.rand(4, 21, 18) < share)
    cam[2] = 0  # a class without evidence anywhere
    ids = torch.tensor([7, 0, 3, 1])
    cues = walk_instance_cams(cam, ids, None, torch.randn(2, 21, 18) * 3)
    expected, expected_ids = parts_by_one_hot(cam, ids, cues.clusters)
    assert cues.clusters.max() > 10
    assert cues.instance_cams.dtype == dtype
    assert torch.equal(cues.instance_cams, expected)
    assert torch.equal(cues.instance_class_ids, expected_ids)


def test_clusters_of_noise_take_no_memory_where_there_is_no_evidence():
    torch.manual_seed(0)
    cam = torch.zeros(20, 48, 48)
    cam[3, 20:23, 20:23] = torch.rand(3, 3)
    with DispatchedCalls() as calls:
        cues = walk_instance_cams(cam, torch.arange(20), None, torch.randn(2, 48, 48) * 3)
    assert cues.clusters.max() > 50
    assert 0 < len(cues.instance_cams) <= 9
    # As much as the CAMs, and the double precision that the paths are followed in.
    assert calls.largest_bytes <= 2 * cam.numel() * cam.element_size()


def test_one_trapped_pixel_sets_the_scale_of_the_image_but_not_of_the_instances():
    scores = torch.full((2, 10, 10), 0.2)
    scores[1] = 0.1
    scores[0, 3, 3] = 100.0
    cams = torch.zeros(2, 10, 10)
    cams[0, 0, 0], cams[1, 5, 5] = 1.0, 0.8
    grid = {"stride": 4, "size": (40, 40)}
    by_image = scores * instance_scale(scores, cams, "image", 0.05, **grid)
    by_instance = scores * instance_scale(scores, cams, "instance", 0.05, **grid)
    # The pixels next to the centre of a cell are half a pixel off it, 1/8 of the way to the next.
    trapped = 0.2 + (100 - 0.2) * (7 / 8) ** 2
    assert by_image[0, 0, 0] == pytest.approx(0.2 / trapped)
    assert by_instance[0, 0, 0] == pytest.approx(1.0)
    assert by_instance[1, 0, 0] == pytest.approx(0.8)


def walked(scores, class_ids):
    """Cues of instances whose walk gave these scores."""
    cells = scores.shape[1:]
    cams = scores / scores.amax((1, 2), keepdim=True)
    clusters = torch.zeros(cells, dtype=torch.int64)
    return IRNetCues(
        cam=cams,
        class_ids=class_ids.unique(),
        boundary=torch.zeros(cells),
        displacement=None,
        centroids=None,
        clusters=clusters,
        instance_cams=cams,
        instance_scores=scores,
        instance_class_ids=class_ids,
    )


def published_winners(scores, size, bg_threshold):
    """Upsample, crop, divide by the maximum, argmax against the background: in that order."""
    pixels = F.interpolate(scores[None], scale_factor=4, mode="bilinear")[0]
    pixels = pixels[:, : size[0], : size[1]]
    pixels = pixels / pixels.max()
    best, winners = torch.cat([torch.full((1, *size), bg_threshold), pixels]).max(0)
    return winners, best


def trapped_scores():
    """A faint object of 8 x 8 cells, and a cell where the walk of another was trapped."""
    scores = torch.zeros(2, 16, 16)
    scores[0, 4:12, 2:10] = 0.23  # 0.30 of the pixels' maximum
    scores[1, 8, 13] = 1.0
    return scores


def test_the_maximum_is_that_of_the_pixels():
    # The trapped cell loses a quarter of its height in the upsampling: 1 becomes 0.77.
    assert float(upsampled_maximum(trapped_scores(), 4, (64, 64))) == pytest.approx((7 / 8) ** 2)
    cues = walked(trapped_scores(), torch.tensor([3, 5]))
    found = cues_to_instances(cues, (64, 64), 0.25, 4, "image", 0.01)
    winners, best = published_winners(cues.instance_scores, (64, 64), 0.25)
    assert found.pred_classes.tolist() == [3]
    assert torch.equal(found.pred_masks[0], winners == 1)
    assert float(found.scores[0]) == pytest.approx(float(best[winners == 1].max()))
    labels = cues_to_label_map(cues, (64, 64), 0.25, 4)
    assert torch.equal(labels, torch.tensor([0, 4, 6], dtype=torch.uint8)[winners])


def test_cells_beyond_the_image_do_not_count():
    scores = trapped_scores()
    scores[1] = 0
    scores[1, 15, 15] = 9.0
    size = (59, 58)  # the pixels of the last cells that the high one reaches are cut off
    assert float(upsampled_maximum(scores, 4, size)) == pytest.approx(0.23)
    cues = walked(scores, torch.tensor([3, 5]))
    found = cues_to_instances(cues, size, 0.25, 4, "image", 0.01)
    assert found.pred_classes.tolist() == [3]
    assert float(found.scores[0]) == pytest.approx(1)
    assert (cues_to_label_map(cues, size, 0.25, 4) == 4).any()


@pytest.mark.parametrize("pixels", [1, 47 * 55 * 3, 2**22])
def test_many_instances_a_few_at_a_time(monkeypatch, pixels):
    monkeypatch.setattr(irnet_walk, "CHUNK_PIXELS", pixels)
    torch.manual_seed(0)
    size = (47, 55)
    scores = torch.rand(11, 12, 14) ** 4 * torch.rand(11, 1, 1)
    scale = instance_scale(scores, scores, "image", 0.01, stride=4, size=size)
    winners, best = find_winners(scores * scale, 4, size, 0.25)
    expected, score = published_winners(scores, size, 0.25)
    assert torch.equal(winners, expected)
    assert torch.allclose(best, score, atol=1e-6)
    assert len(winners.unique()) > 5
    # Each instance's own scale, from all of its pixels.
    scale = instance_scale(scores, scores, "instance", 0.01, stride=4, size=size)
    upsampled = F.interpolate(scores[None], scale_factor=4, mode="bilinear")[0, :, :47, :55]
    strong = upsampled.flatten(1).sort(1, descending=True).values[:, round(0.01 * 47 * 55) - 1]
    assert torch.allclose(scale.flatten(), scores.amax((1, 2)) / strong)


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


def _contrast_by_loops(mask, cam, stride):
    """Pixel by pixel: a cell counts by its part of the mask, and a cell without any is ring where
    one with some is near, in the image or not."""
    height, width = mask.shape
    cells = {}
    for i in range(cam.shape[0]):
        for j in range(cam.shape[1]):
            rows = range(i * stride, min((i + 1) * stride, height))
            columns = range(j * stride, min((j + 1) * stride, width))
            pixels = [bool(mask[y, x]) for y in rows for x in columns]
            cells[i, j] = sum(pixels) / len(pixels)
    ring, reach = set(), range(-RING_CELLS, RING_CELLS + 1)
    for i, j in (cell for cell, part in cells.items() if part):
        ring |= {(i + dy, j + dx) for dy in reach for dx in reach}
    ring -= {cell for cell, part in cells.items() if part}
    around = [float(cam[cell]) for cell in ring if cell in cells]
    inside = sum(part * float(cam[cell]) for cell, part in cells.items()) / sum(cells.values())
    outside = sum(around) / len(around) if around else 0.0
    return max(0.0, inside - outside) * len(around) / len(ring)


def test_contrast_is_the_mean_inside_less_the_mean_around():
    generator = torch.Generator().manual_seed(0)
    height, width, stride = 70, 93, 4
    cam = torch.rand(2, 18, 24, generator=generator)
    masks = torch.zeros(4, height, width, dtype=torch.bool)
    masks[0, 5:31, 60:93] = True  # up to the border, and not along the cells
    masks[1, 66:70, 0:3] = True
    masks[2] = True  # nothing around it
    masks[3] = torch.rand(height, width, generator=generator) > 0.995
    cam[1, :8, 15:] = 1
    classes = torch.tensor([7, 2, 7, 2])
    maps = [cam[1], cam[0], cam[1], cam[0]]
    # One by one: each is all that its class covers.
    found = [
        cam_contrast(masks[[i]], classes[[i]], cam, torch.tensor([2, 7]), stride).item()
        for i in range(4)
    ]
    expected = [_contrast_by_loops(m, c, stride) for m, c in zip(masks, maps, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] > 0.2
    assert found[2] == 0
    assert cam_contrast(masks[:0], classes[:0], cam, torch.tensor([2, 7]), stride).shape == (0,)


def test_contrast_of_a_small_piece_beside_a_large_one_is_less():
    cam = torch.zeros(2, 16, 16)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    for i, (rows, columns, channel) in enumerate([((24, 40), (24, 56), 0), ((24, 40), (4, 8), 0)]):
        masks[i, slice(*rows), slice(*columns)] = True
        cam[channel][masks[i, ::4, ::4]] = 1
    masks[2, 48:52, 24:40] = True
    cam[1][masks[2, ::4, ::4]] = 1
    found = cam_contrast(masks, torch.tensor([0, 0, 1]), cam, torch.tensor([0, 1]), 4)
    alone = torch.stack(
        [
            cam_contrast(masks[[i]], torch.tensor([c]), cam, torch.tensor([0, 1]), 4)[0]
            for i, c in enumerate([0, 0, 1])
        ]
    )
    # 8 and 1 parts of the area of class 0, all of class 1
    assert torch.allclose(found, alone * torch.tensor([8 / 9, 1 / 9, 1]).sqrt())


def test_contrast_ranks_instances_and_leaves_their_masks():
    cam, boundary, displacement, _ = two_squares()
    cam[0, 5:11, 1:7], cam[0, 5:11, 9:15] = 0.4, 0.9
    cam[0, 6, 2] = 1  # the left one has the maximum, the right one stands out
    arguments = (cam, torch.tensor([4]), boundary, displacement, (64, 64))
    by_walk = instances_from_relations(*arguments, normalization="instance")
    by_contrast = instances_from_relations(*arguments, normalization="instance", score="contrast")
    assert len(by_contrast) == len(by_walk) == 2
    left = [int(m.any(0).float().argmax()) < 32 for m in by_contrast.pred_masks]
    assert left == [False, True]
    assert by_contrast.scores.tolist() == sorted(by_contrast.scores.tolist(), reverse=True)
    masks = {bytes(m.numpy()) for m in by_walk.pred_masks}
    assert {bytes(m.numpy()) for m in by_contrast.pred_masks} == masks
    with pytest.raises(ValueError, match="score"):
        instances_from_relations(*arguments, score="none")
