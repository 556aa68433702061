"""From cues and masks to prompts: points, boxes and masks, and where an object is not."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from wsis_d2.errors import UserError
from wsis_d2.labeling import LocationCues, Prompter
from wsis_d2.labeling.prompts import background_points, innermost_point

SIZE = (40, 60)


def cues(points, class_ids, response_maps=None, class_response_maps=None):
    count = len(points)
    if response_maps is None:
        response_maps = torch.rand(count, 4, 6)
    if class_response_maps is None:
        class_response_maps = torch.ones(3, 4, 6)
    return LocationCues(
        class_ids=torch.tensor(class_ids, dtype=torch.int64),
        responses=torch.ones(count),
        class_scores=torch.ones(count),
        points=torch.tensor(points, dtype=torch.int64).reshape(-1, 2),
        response_maps=response_maps,
        class_response_maps=class_response_maps,
    )


def test_each_question_has_its_parts():
    asked = Prompter(["point", "box", "mask+box", "point+box+mask"]).of_cues(
        cues([[1, 2], [30, 50]], [0, 1]), SIZE
    )
    parts = [(p.points.shape[1], p.boxes is not None, p.masks is not None) for p in asked]
    assert parts == [(1, False, False), (0, True, False), (0, True, True), (1, True, True)]
    assert all(p.size == SIZE and len(p) == 2 for p in asked)
    assert asked[0].points.tolist() == [[[1, 2]], [[30, 50]]]
    assert asked[0].labels.tolist() == [[1], [1]]


def test_boxes_and_masks_are_where_the_response_is_high():
    maps = torch.zeros(2, 4, 6)
    maps[0, 1:3, 2:5] = torch.tensor([[4.0, 2.0, 1.0], [1.0, 0.9, 0.0]])
    maps[1, 3, 0] = 0.01
    (asked,) = Prompter(["box+mask"], response_threshold=0.25).of_cues(
        cues([[15, 25], [35, 5]], [0, 1], maps), SIZE
    )
    # Cells are 10 pixels wide and high.
    assert asked.boxes.tolist() == [[20, 10, 50, 30], [0, 30, 10, 40]]
    expected = torch.zeros(2, 4, 6)
    expected[0, 1:3, 2:5] = torch.tensor([[1, 1, 0.5], [0.5, 0.45, 0]])
    expected[1, 3, 0] = 1
    assert torch.allclose(asked.masks, expected)


def test_the_nearest_peaks_of_other_classes_are_beside_the_object():
    points = [[10, 10], [10, 14], [20, 10], [10, 40], [30, 30]]
    prompter = Prompter(["point"], other_class_points=2)
    (asked,) = prompter.of_cues(cues(points, [0, 1, 0, 1, 2]), SIZE)
    assert asked.points[0].tolist() == [[10, 10], [10, 14], [30, 30]]
    assert asked.points[1].tolist() == [[10, 14], [10, 10], [20, 10]]
    assert asked.labels.tolist() == [[1, 0, 0]] * 5


def test_objects_of_one_class_alone_have_nothing_beside_them():
    asked, with_other = Prompter(["point"], other_class_points=3), Prompter(["point", "box"])
    (prompts,) = asked.of_cues(cues([[10, 10], [30, 30]], [1, 1]), SIZE)
    assert prompts.labels.tolist() == [[1], [1]]
    assert len(with_other.of_cues(cues([[10, 10]], [1]), SIZE)) == 2


def test_points_are_padded_where_some_have_fewer():
    prompter = Prompter(["point"], other_class_points=2)
    (prompts,) = prompter.of_cues(cues([[10, 10], [30, 30], [30, 40]], [0, 1, 1]), SIZE)
    assert prompts.labels.tolist() == [[1, 0, 0], [1, 0, -1], [1, 0, -1]]


def test_a_peak_at_the_same_place_is_not_beside_the_object():
    prompter = Prompter(["point"], other_class_points=2)
    (prompts,) = prompter.of_cues(cues([[10, 10], [10, 10], [20, 20]], [0, 1, 1]), SIZE)
    assert prompts.points[0].tolist() == [[10, 10], [20, 20]]
    assert prompts.labels[1].tolist() == [1, -1]


def test_background_of_labelled_classes_alone():
    maps = torch.zeros(3, 4, 6)
    maps[0, :, :3] = 5
    maps[1] = 7  # of which there is no object
    prompter = Prompter(["point"], background_points=1)
    (prompts,) = prompter.of_cues(cues([[10, 10]], [0], class_response_maps=maps), SIZE)
    (y, x) = prompts.points[0, 1].tolist()
    assert prompts.labels.tolist() == [[1, 0]]
    assert 30 <= x < 60
    assert 0 <= y < 40


def test_background_points_are_far_from_objects_and_from_each_other():
    maps = torch.zeros(2, 21, 61)
    maps[0, :, :20] = torch.linspace(1, 2, 20)
    maps[1, :, 41:] = 0.1
    maps[1, 0, 41] = 2.5  # 0.1 is below a part of 0.05 of it
    found = background_points(maps, 0.05, 3)
    assert found.shape == (3, 2)
    background = (maps[0] == 0) & (maps[1] < 0.125)
    assert background[found[:, 0], found[:, 1]].all()
    # The deepest place is the middle of the 41 free columns and the 21 rows.
    assert found[0, 0] == 10
    distances = torch.cdist(found.double(), found.double()) + 100 * torch.eye(3)
    assert distances.min() > 5
    assert len(background_points(torch.ones(1, 4, 6), 0.05, 3)) == 0
    assert len(background_points(torch.zeros(1, 2, 2), 0.05, 9)) == 4  # no evidence at all
    assert len(background_points(maps, 0.05, 0)) == 0


def test_the_innermost_point_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((12, 15)) < 0.8
        padded = np.pad(mask, 1)
        outside = np.argwhere(~padded) - 1
        inside = np.argwhere(mask)
        depth = np.linalg.norm(inside[:, None] - outside[None], axis=-1).min(1)
        assert innermost_point(mask) == tuple(inside[depth.argmax()])


def test_finished_masks():
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, 4:11, 8:15] = masks[1, 20:31, 40:60] = True  # the third is empty
    asked = Prompter(["point+box+mask"], other_class_points=4, background_points=4)
    (prompts,) = asked.of_instances(Instances(SIZE, pred_masks=masks))
    assert prompts.points[0].tolist() == [[7, 11]]
    assert prompts.labels.tolist() == [[1]] * 3
    assert prompts.boxes[:2].tolist() == [[8, 4, 15, 11], [40, 20, 60, 31]]
    assert torch.equal(prompts.masks, masks.float())


def test_nothing_located():
    (prompts,) = Prompter(["point+box+mask"], background_points=2).of_cues(cues([], []), SIZE)
    assert len(prompts) == 0
    empty = Instances(SIZE, pred_masks=torch.zeros(0, *SIZE, dtype=torch.bool))
    (prompts,) = Prompter(["point+box"]).of_instances(empty)
    assert len(prompts) == 0


@pytest.mark.parametrize("questions", [["mask"], ["point+circle"], [""], []])
def test_wrong_questions(questions):
    with pytest.raises(UserError, match=r"PROPOSALS\.PROMPTED\.PROMPTS"):
        Prompter(questions)
