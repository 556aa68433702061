"""How well proposals fit objects, against plain loops, and what is made of it."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from wsis_d2 import add_wsis_config
from wsis_d2.labeling import (
    DensityScore,
    DiceWithResponse,
    LocationCues,
    PRMScore,
    SampledObjectness,
    Selector,
)
from wsis_d2.proposals import MaskProposals

SIZE = (12, 16)


def _cues(response_maps):
    count = len(response_maps)
    return LocationCues(
        class_ids=torch.zeros(count, dtype=torch.int64),
        responses=torch.ones(count),
        class_scores=torch.ones(count),
        points=torch.zeros(count, 2, dtype=torch.int64),
        response_maps=response_maps,
        class_response_maps=torch.zeros(1, 3, 4),
    )


def _random_proposals(rng, count):
    masks = rng.random((count, *SIZE)) < 0.5
    masks[:, 0, 0] = True
    return MaskProposals.from_masks(masks, rng.random(count).astype(np.float32))


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
    selector = PRMScore(
        balance_factor=0.7, penalty_factor=0.05, bg_threshold_factor=0.8, contour_width=3
    )
    scores = selector.retrieval_scores(
        torch.from_numpy(responses), torch.from_numpy(class_responses), torch.from_numpy(masks)
    )
    expected = _retrieval_by_loops(responses, class_responses, masks, 0.7, 0.05, 0.8, 3)
    assert np.allclose(scores.numpy(), expected, atol=1e-3)


def test_prm_retrieval_has_the_factors_of_the_released_demo():
    cfg = get_cfg()
    add_wsis_config(cfg)
    for selector in (PRMScore(cfg), PRMScore(), DensityScore(cfg)):
        assert selector.balance_factor == 0.8
        assert selector.penalty_factor == 1e-5
        assert selector.bg_threshold_factor == 0.95
        assert selector.contour_width == 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0, 0.3]))
def test_dice_against_loops(seed, num_objects, num_masks, threshold):
    rng = np.random.default_rng(seed)
    responses = rng.random((num_objects, *SIZE)) ** 4
    proposals = _random_proposals(rng, num_masks)
    expected = np.zeros((num_objects, num_masks))
    for p, response in enumerate(responses / responses.max((1, 2), keepdims=True)):
        if threshold:
            response = (response >= threshold).astype(float)
        for s, mask in enumerate(proposals.decode()):
            expected[p, s] = 2 * response[mask].sum() / (response.sum() + mask.sum())
    maps = torch.from_numpy(responses / responses.sum((1, 2), keepdims=True)).float()
    found = DiceWithResponse(threshold=threshold).match(_cues(maps), proposals)
    assert np.allclose(found, expected, rtol=1e-5)
    assert (found <= 1).all()


def test_dice_of_a_mask_with_itself_is_one_at_any_size_of_the_map():
    mask = np.zeros(SIZE, bool)
    mask[4:8, 4:12] = True
    proposals = MaskProposals.from_masks(np.stack([np.ones(SIZE, bool), mask]), [0.9, 0.1])
    response = torch.from_numpy(mask[None]).float() / mask.sum()
    chosen, scores = DiceWithResponse()(_cues(response), proposals, {})
    assert chosen.tolist() == [1]
    assert scores == pytest.approx([1.0])
    coarse, scores = DiceWithResponse()(_cues(response[:, 1::4, 1::4]), proposals, {})
    assert coarse.tolist() == [1]
    assert 0.7 < scores[0] < 1
    # No evidence at all: nothing fits, and nothing fails.
    assert DiceWithResponse()(_cues(torch.zeros(1, *SIZE)), proposals, {})[1].tolist() == [0.0]


class Given(Selector):
    def __init__(self, matches):
        self.matches = np.array(matches)

    def match(self, cues, proposals):
        return self.matches


def test_choice_and_candidates_of_given_matches():
    proposals = _random_proposals(np.random.default_rng(0), 3)
    inf = np.inf
    selector = Given([[0.2, 0.6, -inf], [-inf] * 3, [-0.5, -0.2, -0.9], [0.5, 3.0, 0.5]])
    cues = _cues(torch.ones(4, *SIZE))
    chosen, scores = selector(cues, proposals, {})
    assert chosen.tolist() == [1, -1, 1, 1]
    assert scores.tolist() == [0.6, 0, 0, 1]
    assert chosen.dtype == np.int64
    assert scores.dtype == np.float64

    candidates = selector.candidates(cues, proposals, 2)
    assert [index.tolist() for index, _ in candidates] == [[1, 0], [], [1, 0], [1, 0]]
    expected = [[0.75, 0.25], [], [0.5, 0.5], [3 / 3.5, 0.5 / 3.5]]
    for (_, weights), e in zip(candidates, expected, strict=True):
        assert weights.tolist() == pytest.approx(e)


def test_candidates_of_sampled_objectness_have_its_probabilities():
    masks = np.ones((3, *SIZE), bool)
    masks[2, 0, 0] = False  # where the object lies
    proposals = MaskProposals.from_masks(masks, [0.6, 0.2, 0.9])
    cues = _cues(torch.ones(1, *SIZE))
    ((index, weights),) = SampledObjectness(seed=0).candidates(cues, proposals, 100)
    # Sorted by objectness, the one without the point comes first.
    assert index.tolist() == [1, 2]
    assert weights == pytest.approx([0.75, 0.25])
