"""From located objects and proposals to instances: choice, suppression, candidates."""

import numpy as np
import pytest
import torch

from wsis_d2.data import StrongerLabel
from wsis_d2.labeling import (
    WISE,
    BestObjectness,
    Localizer,
    LocationCues,
    PRMScore,
    SampledObjectness,
)
from wsis_d2.proposals import MaskProposals

SIZE = (12, 16)


class Given(Localizer):
    """Gives the same cues for every image."""

    def __init__(self, cues):
        super().__init__()
        self.network = torch.nn.Identity()
        self.cues = cues

    def forward(self, x):
        return self.cues


class Source:
    def __init__(self, proposals):
        self.proposals = proposals

    def get(self, x):
        return self.proposals


def _box(y0, x0, y1, x1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _cues(points, class_ids, scores=None, responses=None):
    count = len(points)
    return LocationCues(
        class_ids=torch.tensor(class_ids, dtype=torch.int64),
        responses=torch.arange(count, 0, -1).float(),
        class_scores=torch.tensor(scores or [1.0] * count),
        points=torch.tensor(points, dtype=torch.int64).reshape(-1, 2),
        response_maps=torch.zeros(count, *SIZE) if responses is None else responses,
        class_response_maps=torch.zeros(3, 3, 4),
    )


PROPOSALS = MaskProposals.from_masks(
    np.stack([_box(0, 0, 6, 8), _box(0, 0, 12, 16), _box(2, 2, 5, 5), _box(6, 8, 12, 16)]),
    np.array([0.8, 0.4, 0.6, 0.2], np.float32),
)


def _generator(cues, selector=None, proposals=PROPOSALS, **options):
    options = {
        "nms_threshold": 0.3,
        "class_agnostic_nms": False,
        "min_score": 0.0,
        "max_candidates": 0,
        **options,
    }
    return WISE(
        localizer=Given(cues),
        selector=selector or BestObjectness(min_objectness=0.0),
        proposals=Source(proposals),
        **options,
    )


def _label(generator, image_id=7):
    x = {
        "image": torch.zeros(3, *SIZE, dtype=torch.uint8),
        "image_labels": torch.tensor([0]),
        "image_id": image_id,
        "height": SIZE[0],
        "width": SIZE[1],
    }
    (output,) = generator([x])
    return output["instances"]


def test_wise_takes_the_best_proposal_that_contains_the_peak():
    cues = _cues([[3, 3], [8, 12]], [0, 2], scores=[0.9, 0.5])
    labels = _label(_generator(cues))
    assert labels.pred_classes.tolist() == [0, 2]
    # Peak (3, 3) lies in proposals of objectness 0.8, 0.4 and 0.6; (8, 12) in 0.4 and 0.2.
    assert labels.scores.tolist() == pytest.approx([0.8 * 0.9, 0.4 * 0.5])
    assert np.array_equal(labels.pred_masks[0].numpy(), _box(0, 0, 6, 8))
    assert np.array_equal(labels.pred_masks[1].numpy(), _box(0, 0, 12, 16))
    assert labels.pred_boxes.tensor.tolist() == [[0, 0, 8, 6], [0, 0, 16, 12]]
    assert labels.image_size == SIZE
    assert not labels.has("candidates")


def test_two_peaks_of_one_object_give_one_mask():
    labels = _label(_generator(_cues([[1, 1], [5, 7]], [0, 0])))
    assert len(labels) == 1


def test_the_same_mask_for_two_classes_stays_unless_suppression_is_over_all_classes():
    cues = _cues([[1, 1], [5, 7]], [0, 1])
    assert sorted(_label(_generator(cues)).pred_classes.tolist()) == [0, 1]
    assert len(_label(_generator(cues, class_agnostic_nms=True))) == 1


def test_nothing_contains_the_peak():
    proposals = MaskProposals.from_masks(_box(0, 0, 2, 2)[None], np.ones(1, np.float32))
    labels = _label(_generator(_cues([[9, 9]], [0]), proposals=proposals, max_candidates=3))
    assert len(labels) == 0
    assert labels.pred_masks.shape == (0, *SIZE)
    assert labels.candidates == []


def test_no_objects_and_no_proposals():
    empty = MaskProposals.from_masks(np.zeros((0, *SIZE), bool), np.zeros(0, np.float32))
    for selector in (BestObjectness(), PRMScore()):
        assert len(_label(_generator(_cues([], []), selector, max_candidates=2))) == 0
        generator = _generator(_cues([[1, 1]], [0]), selector, empty, max_candidates=2)
        assert len(_label(generator)) == 0


def test_least_objectness_and_score():
    cues = _cues([[8, 12]], [0])
    assert len(_label(_generator(cues, BestObjectness(min_objectness=0.5)))) == 0
    assert len(_label(_generator(cues, min_score=0.5))) == 0


def test_candidates_are_those_of_the_instances():
    # The second peak's mask is suppressed, the third peak scores best.
    cues = _cues([[3, 3], [1, 1], [8, 12]], [0, 0, 2], scores=[0.4, 0.3, 1.0])
    labels = _label(_generator(cues, max_candidates=2))
    assert labels.pred_classes.tolist() == [2, 0]
    # Indices are those of the proposals sorted by objectness.
    expected = [[(2, 0.4 / 0.6), (3, 0.2 / 0.6)], [(0, 0.8 / 1.4), (1, 0.6 / 1.4)]]
    for found, pairs in zip(labels.candidates, expected, strict=True):
        assert [c["segmentation"] for c in found] == [PROPOSALS.masks[i] for i, _ in pairs]
        assert [c["weight"] for c in found] == pytest.approx([weight for _, weight in pairs])


def _label_given(generator, labels):
    generator.stronger_labels = {7: labels}
    return _label(generator)


def test_given_points_are_the_peaks_of_their_class():
    # Class 0 was found at (8, 12), class 2 at (1, 1); a point says that class 0 is at (3, 3).
    cues = _cues([[8, 12], [1, 1]], [0, 2])
    labels = _label_given(_generator(cues), [StrongerLabel(0, point=(3.5, 3.5))])
    assert sorted(zip(labels.pred_classes.tolist(), labels.given)) == [(0, "point"), (2, "")]
    (mask,) = labels.pred_masks[labels.pred_classes == 0].numpy()
    assert np.array_equal(mask, _box(0, 0, 6, 8))
    # Nothing was found at all.
    labels = _label_given(_generator(_cues([], [])), [StrongerLabel(1, point=(12.0, 11.0))])
    assert labels.pred_classes.tolist() == [1]
    assert np.array_equal(labels.pred_masks[0].numpy(), _box(0, 0, 12, 16))


def test_given_boxes_take_the_proposal_that_fits():
    # No peak is near the proposal with the box (2, 2, 5, 5).
    generator = _generator(_cues([[8, 12]], [0]), max_candidates=2)
    labels = _label_given(generator, [StrongerLabel(0, box=(2.0, 2.0, 5.0, 4.0))])
    assert np.array_equal(labels.pred_masks.numpy(), [_box(2, 2, 4, 5)])
    assert labels.given == ["box"]
    assert labels.scores.tolist() == pytest.approx([(1 + 2 / 3) / 2])
    empty = MaskProposals.from_masks(np.zeros((0, *SIZE), bool), np.zeros(0, np.float32))
    generator = _generator(_cues([[8, 12]], [0]), proposals=empty)
    labels = _label_given(generator, [StrongerLabel(0, box=(2.0, 2.0, 5.0, 4.0))])
    assert labels.given == ["ellipse"]


def test_sampling_follows_objectness_and_the_seed():
    cues = _cues([[3, 3]], [0])
    generator = _generator(cues, SampledObjectness(seed=0))
    areas = [int(_label(generator, i).pred_masks.sum()) for i in range(600)]
    assert areas == [int(_label(generator, i).pred_masks.sum()) for i in range(600)]
    # Proposals of areas 48, 9 and 192 with objectness 0.8, 0.6 and 0.4.
    share = np.array([areas.count(48), areas.count(9), areas.count(192)]) / 600
    assert share == pytest.approx(np.array([0.8, 0.6, 0.4]) / 1.8, abs=0.08)
    other_seed = _generator(cues, SampledObjectness(seed=1))
    assert areas != [int(_label(other_seed, i).pred_masks.sum()) for i in range(600)]


def test_prm_takes_the_proposal_that_fits_the_response():
    responses = torch.zeros(2, *SIZE)
    responses[0, 2:5, 2:5] = 1 / 9
    responses[1, 6:12, 8:16] = 1 / 48
    # The image-filling proposal holds all of both responses: the penalty decides.
    cues = _cues([[3, 3], [8, 12]], [0, 0], responses=responses)
    cues.class_response_maps[0, 0, 0] = 1
    labels = _label(_generator(cues, PRMScore(penalty_factor=0.01, contour_width=3)))
    areas = sorted(labels.pred_masks.flatten(1).sum(1).tolist())
    assert areas == [9, 48]
    assert ((labels.scores > 0) & (labels.scores <= 1)).all()
