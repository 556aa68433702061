"""What points, boxes and masks make of an image's masks, on masks made by hand."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from wsis_d2.data import StrongerLabel
from wsis_d2.evaluation import count_stronger_labels
from wsis_d2.labeling import (
    LabelGenerator,
    LocationCues,
    apply_stronger_labels,
    with_stronger_labels,
)
from wsis_d2.labeling.localizers.base import move_to_points
from wsis_d2.structures import decode_mask, encode_mask

SIZE = (20, 30)


def _box(y0, x0, y1, x1, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _apply(masks, classes, labels, scores=None):
    rles = [encode_mask(mask) for mask in masks]
    scores = [0.5] * len(masks) if scores is None else scores
    return apply_stronger_labels(rles, classes, scores, labels, SIZE)


def _bitmaps(found):
    return [decode_mask(given.mask) for given in found]


LEFT, RIGHT, BOTH = _box(2, 2, 12, 8), _box(2, 20, 12, 26), _box(2, 2, 12, 26)


def test_given_masks_take_the_place_of_their_class_alone():
    given = encode_mask(_box(0, 0, 3, 3))
    kept, found = _apply([LEFT, RIGHT, BOTH], [0, 1, 0], [StrongerLabel(0, mask=given)])
    assert kept.tolist() == [1]
    assert [(f.mask, f.class_id, f.score, f.given) for f in found] == [(given, 0, 1.0, "mask")]


def test_a_class_that_the_generator_did_not_find():
    given = encode_mask(LEFT)
    kept, found = _apply([RIGHT], [1], [StrongerLabel(0, mask=given)])
    assert kept.tolist() == [0]
    assert [f.class_id for f in found] == [0]
    assert len(_apply([], [], [StrongerLabel(0, mask=given)])[1]) == 1


def test_a_point_takes_the_best_mask_that_it_lies_in():
    point = StrongerLabel(0, point=(5.0, 6.0))
    kept, (found,) = _apply([LEFT, BOTH, RIGHT, LEFT], [0, 0, 0, 1], [point], [0.4, 0.2, 0.9, 1.0])
    assert kept.tolist() == [3]
    assert np.array_equal(decode_mask(found.mask), LEFT)
    assert (found.score, found.given) == (pytest.approx(0.7), "point")


def test_of_equal_scores_the_smaller_mask():
    _, (found,) = _apply([BOTH, LEFT], [0, 0], [StrongerLabel(0, point=(5.0, 6.0))])
    assert np.array_equal(decode_mask(found.mask), LEFT)


def test_points_in_one_mask_share_it():
    points = [StrongerLabel(0, point=(x, 6.0)) for x in (5.0, 25.9)]
    _, found = _apply([BOTH], [0], points)
    left, right = _bitmaps(found)
    # Columns 5 and 25: halfway is 15, which goes to the first.
    assert np.array_equal(left, _box(2, 2, 12, 16))
    assert np.array_equal(right, _box(2, 16, 12, 26))


def test_points_without_a_mask():
    points = [StrongerLabel(0, point=(15.0, 6.0)), StrongerLabel(2, point=(5.0, 6.0))]
    kept, found = _apply([LEFT, RIGHT], [0, 0], points)
    assert kept.tolist() == []
    assert found == []


def test_a_point_on_the_images_far_edge():
    corner = _box(15, 25, 20, 30)
    _, (found,) = _apply([corner], [0], [StrongerLabel(0, point=(30.0, 20.0))])
    assert np.array_equal(decode_mask(found.mask), corner)


def test_a_box_takes_the_mask_that_fits_and_crops_it():
    box = StrongerLabel(0, box=(2.0, 2.0, 8.0, 11.0))
    _, (found,) = _apply([BOTH, LEFT, RIGHT], [0, 0, 0], [box], [1.0, 0.1, 1.0])
    assert np.array_equal(decode_mask(found.mask), _box(2, 2, 11, 8))
    # Of 10 rows 9 are in the box.
    assert (found.score, found.given) == (pytest.approx((1 + 0.9) / 2), "box")


def test_a_box_that_nothing_fits_is_around_an_ellipse():
    box = StrongerLabel(0, box=(14.0, 4.0, 24.0, 10.0))
    _, (found,) = _apply([LEFT, BOTH, _box(4, 14, 10, 24)], [0, 0, 1], [box])
    mask = decode_mask(found.mask)
    assert not (mask & ~_box(4, 14, 10, 24)).any()
    assert mask.sum() == pytest.approx(np.pi * 5 * 3, rel=0.1)
    assert mask[4:10, 19].all()
    assert not mask[4, 14]
    assert (found.score, found.given) == (0.5, "ellipse")


def test_a_box_between_pixels_has_no_mask():
    assert _apply([LEFT], [0], [StrongerLabel(0, box=(3.6, 3.0, 4.4, 5.0))])[1] == []
    point_like = _box(3, 3, 4, 4)
    assert _apply([point_like], [0], [StrongerLabel(0, box=(3.6, 3.0, 4.4, 4.0))])[1] == []


def test_two_boxes_may_take_one_mask():
    boxes = [StrongerLabel(0, box=(2.0, 2.0, x, 12.0)) for x in (8.0, 9.0)]
    assert [f.given for f in _apply([LEFT], [0], boxes)[1]] == ["box", "box"]


def _instances(masks, classes, scores, **fields):
    bitmaps = torch.from_numpy(np.stack(masks))
    instances = Instances(SIZE, pred_masks=bitmaps, scores=torch.tensor(scores))
    instances.pred_boxes = BitMasks(bitmaps).get_bounding_boxes()
    instances.pred_classes = torch.tensor(classes)
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def test_outputs_are_sorted_and_say_what_was_given():
    own = [[{"segmentation": encode_mask(m), "weight": 1.0}] for m in (LEFT, RIGHT)]
    output = {
        "instances": _instances([LEFT, RIGHT], [0, 1], [0.3, 0.6], candidates=own),
        "ignore_regions": _instances([BOTH, BOTH], [0, 1], [1.0, 1.0]),
        "cues": "what they are",
    }
    given = encode_mask(_box(0, 0, 3, 3))
    made = with_stronger_labels(output, [StrongerLabel(0, mask=given)])
    instances = made["instances"]
    assert instances.pred_classes.tolist() == [0, 1]
    assert instances.scores.tolist() == pytest.approx([1.0, 0.6])
    assert instances.given == ["mask", ""]
    assert instances.candidates == [[{"segmentation": given, "weight": 1.0}], own[1]]
    assert np.array_equal(instances.pred_masks.numpy(), [_box(0, 0, 3, 3), RIGHT])
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 3, 3], [20, 2, 26, 12]]
    assert made["ignore_regions"].pred_classes.tolist() == [1]
    assert made["cues"] == "what they are"
    assert len(output["instances"]) == 2  # the generator's own are as they were


class Both(LabelGenerator):
    """One mask of all that is not black, of class 0."""

    network = None

    def label(self, x):
        self.seen = x
        bitmaps = (x["image"].sum(0) > 0)[None]
        instances = Instances(bitmaps.shape[1:], pred_masks=bitmaps, scores=torch.ones(1))
        instances.pred_boxes = BitMasks(bitmaps).get_bounding_boxes()
        instances.pred_classes = torch.zeros(1, dtype=torch.int64)
        return {"instances": instances}


def test_generators_have_them_on_the_size_that_they_label():
    generator = Both()
    x = {"image": torch.from_numpy(BOTH).expand(3, -1, -1) * torch.tensor(255)}
    x |= {"image": x["image"].to(torch.uint8), "height": SIZE[0], "width": SIZE[1], "image_id": 4}
    (plain,) = generator([x])
    assert not plain["instances"].has("given")
    assert "stronger_labels" not in generator.seen
    generator.stronger_labels = {4: [StrongerLabel(0, point=(p, 6.0)) for p in (4.0, 24.0)]}
    generator.max_pixels = 150  # half the size
    (output,) = generator([x])
    assert [s.point for s in generator.seen["stronger_labels"]] == [(2.0, 3.0), (12.0, 3.0)]
    assert output["instances"].given == ["point", "point"]
    first, second = output["instances"].pred_masks.numpy()
    assert first[:, :14].sum() > 0
    assert not first[:, 16:].any()
    assert second[:, 16:].sum() > 0
    assert not second[:, :14].any()
    (other,) = generator([{**x, "image_id": 5}])
    assert not other["instances"].has("given")


def _cues(class_ids, points, maps):
    count = len(class_ids)
    return LocationCues(
        class_ids=torch.tensor(class_ids, dtype=torch.int64),
        responses=torch.arange(count, 0, -1).float(),
        class_scores=torch.full((count,), 0.5),
        points=torch.tensor(points, dtype=torch.int64).reshape(-1, 2),
        response_maps=torch.full((count, 10, 15), 1 / 150),
        class_response_maps=maps,
    )


def test_objects_move_to_points():
    maps = torch.zeros(3, 5, 5)
    maps[0, :, 1] = 2.0
    maps[0, :, 3] = 4.0
    maps[1] = -1.0
    cues = _cues([0, 2, 0], [[0, 0], [9, 9], [1, 1]], maps)
    points = torch.tensor([[10, 9], [10, 21], [18, 28]])
    moved = move_to_points(cues, torch.tensor([0, 0, 1]), points, SIZE)
    assert moved.class_ids.tolist() == [0, 0, 1, 2]
    assert moved.points.tolist() == [*points.tolist(), [9, 9]]
    assert moved.class_scores.tolist() == [1, 1, 1, 0.5]
    assert moved.responses[:2].tolist() == [2, 4]
    assert moved.response_maps.sum((1, 2)).tolist() == pytest.approx([1] * 4)
    first, second, lone, other = moved.response_maps
    # Columns 4 and 10 of 15 have the points: up to 7 is the first's.
    assert first[:, 8:].sum() == 0
    assert second[:, :7].sum() == 0
    assert first[:, 4].sum() > 0
    assert second[:, 10].sum() > 0
    assert lone.nonzero().tolist() == [[9, 14]]  # where its class has no response
    assert torch.equal(other, cues.response_maps[1])


def test_points_where_nothing_was_found():
    moved = move_to_points(
        _cues([], [], torch.ones(2, 5, 5)), torch.tensor([1]), torch.tensor([[3, 4]]), SIZE
    )
    assert moved.class_ids.tolist() == [1]
    assert moved.points.tolist() == [[3, 4]]


def test_counts():
    given = {
        1: [StrongerLabel(0, mask=encode_mask(LEFT)), StrongerLabel(0, point=(1, 1))],
        2: [StrongerLabel(0, box=(0, 0, 1, 1)), StrongerLabel(0, box=(0, 0, 1, 1))],
        3: [StrongerLabel(0, point=(1, 1))],
    }
    kinds = ("mask", "box", "ellipse", "point", None)
    annotations = [{"given": kind} if kind else {} for kind in kinds]
    assert count_stronger_labels(given, annotations) == {
        "images": 3,
        "masks": 1,
        "boxes": 2,
        "points": 2,
        "ellipses": 1,
        "points without a mask": 1,
        "not used": 1,
    }
