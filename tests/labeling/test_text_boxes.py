"""TextBoxes: who is asked for what, and what becomes of the boxes; BoxOverlap and BoxLabels."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from wsis_d2.errors import UserError
from wsis_d2.labeling import (
    BoxLabels,
    BoxOverlap,
    LocationCues,
    PRMPeaks,
    Prompter,
    TextBoxes,
    TextDetector,
)
from wsis_d2.labeling.localizers import located_boxes
from wsis_d2.labeling.localizers.text_boxes import box_coverage
from wsis_d2.proposals import MaskProposals

SIZE = (40, 60)
TEXTS = [["ant"], ["bee", "wasp"], ["cat"]]


class Dictated(TextDetector):
    """Gives these boxes; a text that none of them is of scores 0.

    Args:
        boxes: {text: [(x0, y0, x1, y1, score), ...]}.
    """

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes
        self.asked = []
        self.images = []

    def detect(self, image, texts):
        self.asked.append(list(texts))
        self.images.append(image)
        rows = [(i, *box) for i, text in enumerate(texts) for box in self.boxes.get(text, ())]
        boxes = torch.tensor([row[1:5] for row in rows]).reshape(-1, 4).float()
        scores = torch.zeros(len(rows), len(texts))
        for number, row in enumerate(rows):
            scores[number, row[0]] = row[5]
        return boxes, scores


def localizer(boxes, **options):
    return TextBoxes(detector=Dictated(boxes), texts=TEXTS, **options)


def x(labels, size=SIZE, image_size=None):
    image = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, *(image_size or size))
    return {
        **{"image": image, "image_labels": torch.tensor(labels, dtype=torch.int64)},
        **{"height": size[0], "width": size[1], "image_id": 1, "file_name": "none.jpg"},
    }


def test_the_detector_is_asked_for_the_labels_of_the_image_alone():
    boxes = localizer({"cat": [(0, 0, 9, 9, 0.9)]})
    boxes(x([1, 0]))
    boxes(x([0]))
    cues = boxes(x([]))
    assert boxes.detector.asked == [["ant", "bee", "wasp"], ["ant"]]
    assert len(cues) == 0
    assert cues.boxes.shape == (0, 4)
    assert cues.class_response_maps.shape == (3, *SIZE)
    assert cues.unlabelled is None


def test_the_best_text_counts():
    boxes = localizer({"bee": [(0, 0, 10, 10, 0.3)], "wasp": [(30, 0, 40, 10, 0.6)]})
    cues = boxes(x([0, 1]))
    assert cues.class_ids.tolist() == [1, 1]
    assert cues.class_scores.tolist() == pytest.approx([0.6, 0.3])
    assert cues.boxes.tolist() == [[30, 0, 40, 10], [0, 0, 10, 10]]
    assert cues.points.tolist() == [[5, 35], [5, 5]]


@pytest.mark.parametrize(("image_format", "channels"), [("BGR", [2, 1, 0]), ("RGB", [0, 1, 2])])
def test_the_detector_sees_rgb(image_format, channels):
    boxes = localizer({}, image_format=image_format)
    boxes(x([0]))
    assert boxes.detector.images[0][:, 0, 0].tolist() == channels
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'YUV-BT\.601'"):
        localizer({}, image_format="YUV-BT.601")


def test_low_scores_duplicates_and_what_is_outside_are_dropped():
    boxes = {
        "ant": [
            *[(0, 0, 10, 10, 0.5), (1, 0, 11, 10, 0.8), (1, 0, 11, 12, 0.2)],
            *[(50, 30, 90, 60, 0.4), (61, 0, 70, 9, 0.9), (20, 20, 20, 30, 0.9)],
        ],
        "cat": [(0, 0, 10, 10, 0.6)],  # of another class: it stays
    }
    cues = localizer(boxes, min_score=0.3)(x([0, 2]))
    assert cues.boxes.tolist() == [[1, 0, 11, 10], [0, 0, 10, 10], [50, 30, 60, 40]]
    assert cues.class_ids.tolist() == [0, 2, 0]
    assert len(localizer(boxes, min_score=0.3, nms_threshold=0.9)(x([0, 2]))) == 4
    assert len(localizer(boxes, min_score=0.1, nms_threshold=1.0)(x([0, 2]))) == 5
    assert len(localizer(boxes, max_boxes=2)(x([0, 2]))) == 2


def test_an_image_of_another_size_than_its_file():
    cues = localizer({"ant": [(10, 5, 30, 15, 0.9)]})(x([0], SIZE, image_size=(20, 40)))
    assert cues.boxes.tolist() == [[15, 10, 45, 30]]
    assert cues.points.tolist() == [[20, 30]]


def test_a_box_at_the_border_has_its_point_inside():
    cues = localizer({"ant": [(59.5, 39.5, 80, 80, 0.9)]})(x([0]))
    assert cues.points.tolist() == [[39, 59]]


def test_response_maps_are_the_boxes():
    cues = localizer({"ant": [(5, 5, 25, 15, 0.8), (10, 0, 20, 40, 0.5)]})(x([0]))
    expected = torch.zeros(2, *SIZE)
    expected[0, 5:15, 5:25] = expected[1, :, 10:20] = 1
    sums = cues.response_maps.sum((1, 2))
    assert torch.allclose(sums, torch.ones(2))
    assert torch.allclose(cues.response_maps, expected / expected.sum((1, 2), keepdim=True))
    of_class = torch.maximum(0.8 * expected[0], 0.5 * expected[1])
    assert torch.allclose(cues.class_response_maps[0], of_class)
    assert not cues.class_response_maps[1:].any()


def test_coverage_against_a_fine_grid():
    rng = np.random.default_rng(0)
    size, cells = (30, 50), (6, 5)
    boxes = np.sort(rng.random((8, 2, 2)), 1) * size[::-1]
    boxes[0] = [[7.1, 7.1], [7.2, 7.3]]  # in a cell
    coverage = box_coverage(torch.from_numpy(boxes.reshape(-1, 4)).float(), size, cells)
    fine = 40
    y, x_ = ((np.arange(side * fine) + 0.5) / fine for side in size)
    for (low, high), cover in zip(boxes, coverage.numpy()):
        inside = ((y > low[1]) & (y < high[1]))[:, None] & ((x_ > low[0]) & (x_ < high[0]))
        inside = inside.reshape(cells[0], -1, cells[1], inside.shape[1] // cells[1])
        assert cover == pytest.approx(inside.mean((1, 3)), abs=0.02)
    assert coverage[0].sum() > 0


def test_large_images_have_small_maps():
    cues = localizer({"ant": [(0, 0, 1000, 500, 0.9)]})(x([0], (1000, 4000)))
    assert cues.response_maps.shape == (1, 32, 128)
    assert cues.response_maps[0].nonzero().tolist() == [
        list(cell) for cell in itertools.product(range(16), range(32))
    ]


OTHERS = {
    "ant": [(0, 0, 10, 10, 0.6)],
    # On the ant, worse and better; elsewhere, twice; not sure.
    "wasp": [(0, 0, 10, 9, 0.55), (30, 0, 40, 10, 0.9), (40, 30, 50, 40, 0.4)],
    "cat": [(0, 1, 10, 10, 0.7), (30, 0, 40, 11, 0.8)],
}


@pytest.mark.parametrize(
    ("independent", "asked"),
    [(False, [["ant"], ["bee", "wasp", "cat"]]), (True, [["ant", "bee", "wasp", "cat"]])],
)
def test_boxes_without_a_label(independent, asked):
    plain, asking = localizer(OTHERS), localizer(OTHERS, other_classes=True)
    asking.detector.texts_are_independent = independent
    expected, cues = plain(x([0])), asking(x([0]))
    assert asking.detector.asked == asked
    for name in ("boxes", "class_ids", "class_scores", "points", "response_maps"):
        assert torch.equal(getattr(cues, name), getattr(expected, name)), name
    assert cues.unlabelled.pred_boxes.tensor.tolist() == [[30, 0, 40, 10], [0, 1, 10, 10]]
    assert cues.unlabelled.pred_classes.tolist() == [1, 2]
    assert cues.unlabelled.scores.tolist() == pytest.approx([0.9, 0.7])
    everything = located_boxes(cues, SIZE)
    assert everything.is_labelled.tolist() == [True, False, False]
    assert everything.pred_classes.tolist() == [0, 1, 2]
    assert located_boxes(expected, SIZE).is_labelled.tolist() == [True]


@pytest.mark.parametrize("independent", [False, True])
def test_no_class_is_labelled(independent):
    asking = localizer(OTHERS, other_classes=True)
    asking.detector.texts_are_independent = independent
    cues = asking(x([]))
    assert len(cues) == 0
    assert cues.unlabelled.pred_classes.tolist() == [1, 2]


@pytest.mark.parametrize("independent", [False, True])
def test_all_classes_are_labelled(independent):
    asking = localizer(OTHERS, other_classes=True)
    asking.detector.texts_are_independent = independent
    cues = asking(x([0, 1, 2]))
    assert len(asking.detector.asked) == 1
    assert len(cues.unlabelled) == 0


def test_a_box_is_asked_for_as_it_is():
    cues = localizer({"ant": [(5.5, 5.25, 25, 15, 0.8)]})(x([0]))
    (prompts,) = Prompter(["box"]).of_cues(cues, SIZE)
    assert prompts.boxes.tolist() == [[5.5, 5.25, 25, 15]]
    assert prompts.points.shape == (1, 0, 2)


def test_box_overlap_against_plain_arrays():
    rng = np.random.default_rng(1)
    masks = np.zeros((9, *SIZE), bool)
    for mask in masks:
        y, x_ = rng.integers(0, 30, 2)
        mask[y : y + 7, x_ : x_ + 20] = rng.random(mask[y : y + 7, x_ : x_ + 20].shape) < 0.5
    objectness = np.sort(rng.random(9))[::-1].astype(np.float32)
    proposals = MaskProposals.from_masks(masks, objectness)
    boxes = {"ant": [(3, 4, 25, 20, 0.5)], "cat": [(20, 10, 44, 30, 0.8)]}
    cues = localizer(boxes)(x([0, 2]))
    matches = BoxOverlap().match(cues, proposals)
    found = np.array(
        [[m.any(0).argmax(), m.any(1).argmax(), SIZE[1] - m.any(0)[::-1].argmax(),
          SIZE[0] - m.any(1)[::-1].argmax()] for m in masks]
    )  # fmt: skip
    overlaps = pairwise_iou(cues_boxes(cues), Boxes(torch.from_numpy(found).float())).numpy()
    expected = overlaps * cues.class_scores.numpy()[:, None] * objectness
    assert matches[overlaps > 0] == pytest.approx(expected[overlaps > 0], rel=1e-5)
    assert np.isneginf(matches[overlaps == 0]).all()
    assert (overlaps == 0).any()


def cues_boxes(cues):
    return Boxes(cues.boxes)


def test_box_overlap_needs_boxes():
    masks = MaskProposals.from_masks(np.ones((1, *SIZE), bool), np.ones(1, np.float32))
    cues = LocationCues(*[torch.zeros(1)] * 6)
    with pytest.raises(UserError, match="the localiser gives no boxes"):
        BoxOverlap().match(cues, masks)


def test_boxes_are_labels():
    generator = BoxLabels(
        localizer=localizer({"ant": [(5.5, 4, 25.5, 15, 0.8)], "cat": [(0, 0, 9, 9, 0.4)]}),
        min_score=0.5,
    )
    assert generator.network is None
    (output,) = generator([x([0, 2])])
    instances = output["instances"]
    expected = torch.zeros(1, *SIZE, dtype=torch.bool)
    expected[0, 4:15, 5:25] = True  # centres of pixels count
    assert torch.equal(instances.pred_masks, expected)
    assert instances.pred_boxes.tensor.tolist() == [[5.5, 4, 25.5, 15]]
    assert instances.pred_classes.tolist() == [0]
    assert len(output["located_boxes"]) == 2  # what was found is counted


def test_box_labels_need_boxes():
    with pytest.raises(UserError, match="PSEUDO_LABELS.LOCALIZER to 'TextBoxes'"):
        BoxLabels(localizer=PRMPeaks.__new__(PRMPeaks))


def test_labels_of_a_reduced_image_are_brought_to_the_full_size():
    generator = BoxLabels(localizer=localizer({"ant": [(5, 4, 25, 15, 0.8)]}, other_classes=True))
    generator.max_pixels = SIZE[0] * SIZE[1]
    (output,) = generator([x([0], (80, 120))])
    boxes = output["located_boxes"]
    assert boxes.image_size == (80, 120)
    assert boxes.pred_boxes.tensor.tolist() == [[10, 8, 50, 30]]
    assert output["instances"].pred_boxes.tensor.tolist() == [[10, 8, 50, 30]]
    assert isinstance(boxes, Instances)
