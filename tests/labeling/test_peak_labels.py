"""WISE's choice and PRM's retrieval against hand-made proposals and plain loops."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st

from wsis_d2.labeling import PRM, WISE, PeakCues
from wsis_d2.proposals import MaskProposals

SIZE = (12, 16)


class Classifier(torch.nn.Module):
    def preprocess(self, batched_inputs):
        return ImageList.from_tensors([x["image"].float() for x in batched_inputs])


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
    return PeakCues(
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


def _generator(kind, cues, proposals=PROPOSALS, **options):
    common = {
        "network": Classifier(),
        "localizer": lambda *_: cues,
        "proposals": Source(proposals),
        "nms_threshold": 0.3,
        "min_score": 0.0,
    }
    if kind is WISE:
        common |= {"selection": "best", "min_objectness": 0.0, "seed": 0}
    else:
        common |= {
            "balance_factor": 1.0,
            "penalty_factor": 1e-5,
            "bg_threshold_factor": 0.1,
            "contour_width": 3,
        }
    return kind(**{**common, **options})


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
    labels = _label(_generator(WISE, cues))
    assert labels.pred_classes.tolist() == [0, 2]
    # Peak (3, 3) lies in proposals of objectness 0.8, 0.4 and 0.6; (8, 12) in 0.4 and 0.2.
    assert labels.scores.tolist() == pytest.approx([0.8 * 0.9, 0.4 * 0.5])
    assert np.array_equal(labels.pred_masks[0].numpy(), _box(0, 0, 6, 8))
    assert np.array_equal(labels.pred_masks[1].numpy(), _box(0, 0, 12, 16))
    assert labels.pred_boxes.tensor.tolist() == [[0, 0, 8, 6], [0, 0, 16, 12]]
    assert labels.image_size == SIZE


def test_two_peaks_of_one_object_give_one_mask():
    labels = _label(_generator(WISE, _cues([[1, 1], [5, 7]], [0, 0])))
    assert len(labels) == 1


def test_the_same_mask_for_two_classes_stays():
    labels = _label(_generator(WISE, _cues([[1, 1], [5, 7]], [0, 1])))
    assert sorted(labels.pred_classes.tolist()) == [0, 1]


def test_nothing_contains_the_peak():
    proposals = MaskProposals.from_masks(_box(0, 0, 2, 2)[None], np.ones(1, np.float32))
    labels = _label(_generator(WISE, _cues([[9, 9]], [0]), proposals))
    assert len(labels) == 0
    assert labels.pred_masks.shape == (0, *SIZE)


def test_no_peaks_and_no_proposals():
    empty = MaskProposals.from_masks(np.zeros((0, *SIZE), bool), np.zeros(0, np.float32))
    for kind in (WISE, PRM):
        assert len(_label(_generator(kind, _cues([], [])))) == 0
        assert len(_label(_generator(kind, _cues([[1, 1]], [0]), empty))) == 0


def test_least_objectness_and_score():
    cues = _cues([[8, 12]], [0])
    assert len(_label(_generator(WISE, cues, min_objectness=0.5))) == 0
    assert len(_label(_generator(WISE, cues, min_score=0.5))) == 0


def test_sampling_follows_objectness_and_the_seed():
    generator = _generator(WISE, _cues([[3, 3]], [0]), selection="sampled")
    areas = [int(_label(generator, i).pred_masks.sum()) for i in range(600)]
    assert areas == [int(_label(generator, i).pred_masks.sum()) for i in range(600)]
    # Proposals of areas 48, 9 and 192 with objectness 0.8, 0.6 and 0.4.
    share = np.array([areas.count(48), areas.count(9), areas.count(192)]) / 600
    assert share == pytest.approx(np.array([0.8, 0.6, 0.4]) / 1.8, abs=0.08)
    other_seed = _generator(WISE, _cues([[3, 3]], [0]), selection="sampled", seed=1)
    assert areas != [int(_label(other_seed, i).pred_masks.sum()) for i in range(600)]


def _retrieval_by_loops(responses, class_responses, masks, balance, penalty, factor, width):
    scores = np.zeros((len(responses), len(masks)))
    kernel = np.ones((width, width), np.uint8)
    for p, (response, background) in enumerate(zip(responses, class_responses)):
        background = background - background.min()
        background = background < factor * background.mean()
        for s, mask in enumerate(masks):
            contour = cv2.dilate(mask.astype(np.uint8), kernel) - cv2.erode(
                mask.astype(np.uint8), kernel
            )
            scores[p, s] = (
                balance * response[mask].sum()
                + response[contour.astype(bool)].sum()
                - penalty * background[mask].sum()
            )
    return scores


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_prm_retrieval_against_loops(seed, num_peaks, num_masks):
    rng = np.random.default_rng(seed)
    responses = rng.random((num_peaks, *SIZE)).astype(np.float32)
    class_responses = rng.normal(size=(num_peaks, *SIZE)).astype(np.float32)
    masks = rng.random((num_masks, *SIZE)) < 0.5
    options = {"balance_factor": 0.7, "penalty_factor": 0.05, "bg_threshold_factor": 0.8}
    generator = _generator(PRM, _cues([], []), **options)
    scores = generator.retrieval_scores(
        torch.from_numpy(responses), torch.from_numpy(class_responses), torch.from_numpy(masks)
    )
    expected = _retrieval_by_loops(responses, class_responses, masks, 0.7, 0.05, 0.8, 3)
    assert np.allclose(scores.numpy(), expected, atol=1e-3)


def test_prm_takes_the_proposal_that_fits_the_response():
    responses = torch.zeros(2, *SIZE)
    responses[0, 2:5, 2:5] = 1 / 9
    responses[1, 6:12, 8:16] = 1 / 48
    # The image-filling proposal holds all of both responses: the penalty decides.
    cues = _cues([[3, 3], [8, 12]], [0, 0], responses=responses)
    cues.class_response_maps[0, 0, 0] = 1
    labels = _label(_generator(PRM, cues, penalty_factor=0.01))
    areas = sorted(labels.pred_masks.flatten(1).sum(1).tolist())
    assert areas == [9, 48]
    assert ((labels.scores > 0) & (labels.scores <= 1)).all()
