"""Proposals by the density inside them, against loops."""

import dataclasses

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError
from wsis_d2.labeling import (
    BestObjectness,
    DensityObjectness,
    DensityScore,
    LocationCues,
    PRMScore,
)
from wsis_d2.proposals import MaskProposals


@pytest.fixture
def proposals():
    """In an image of 16 x 24: the upper left quarter, a right stripe, the left half."""
    masks = np.zeros((3, 16, 24), bool)
    masks[0, :8, :12] = True
    masks[1, :, 20:22] = True
    masks[2, :, :12] = True
    rles = [mask_utils.encode(np.asfortranarray(m, dtype=np.uint8)) for m in masks]
    return MaskProposals(rles, np.array([0.9, 0.8, 0.5]), (16, 24))


@pytest.fixture
def cues():
    """Two objects of class 1, at the left top; density maps of 4 x 6 cells."""
    generator = torch.Generator().manual_seed(0)
    responses = torch.rand(2, 16, 24, generator=generator)
    return LocationCues(
        class_ids=torch.tensor([1, 1]),
        responses=torch.tensor([3.0, 2.0]),
        class_scores=torch.tensor([0.9, 0.9]),
        points=torch.tensor([[2, 3], [4, 5]]),
        response_maps=responses / responses.sum((1, 2), keepdim=True),
        class_response_maps=torch.rand(2, 4, 6, generator=generator),
        density_maps=torch.rand(2, 4, 6, generator=generator) / 8,
    )


def penalties(cues, proposals):
    """By looping over cells: a cell counts by the part of its 4 x 4 pixels that is covered."""
    masks = proposals.decode()
    result = np.zeros((len(cues), len(masks)))
    for p, class_id in enumerate(cues.class_ids):
        for s, mask in enumerate(masks):
            inside = 0.0
            for y in range(4):
                for x in range(6):
                    part = mask[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean()
                    inside += part * float(cues.density_maps[class_id, y, x])
            result[p, s] = abs(1 - inside)
    return result


def test_density_score(cues, proposals):
    matches = DensityScore(density_factor=0.3, balance_factor=0.8).match(cues, proposals)
    expected = PRMScore(balance_factor=0.8).match(cues, proposals)
    expected -= 0.3 * penalties(cues, proposals) / 1.8
    np.testing.assert_allclose(matches, expected, atol=1e-6)


def test_density_objectness(cues, proposals):
    matches = DensityObjectness(density_factor=0.7).match(cues, proposals)
    plain = BestObjectness().match(cues, proposals)
    assert np.isneginf(plain[:, 1]).all()
    assert np.isneginf(matches[:, 1]).all()
    expected = plain * np.exp(-0.7 * penalties(cues, proposals))
    np.testing.assert_allclose(matches, expected, atol=1e-6)


def test_the_proposal_that_holds_one_object_is_chosen(cues, proposals):
    density = torch.zeros(2, 4, 6)
    density[1, :, :3] = 1 / 12  # one object over the left half, half of it in the quarter
    cues = dataclasses.replace(cues, density_maps=density)
    x = {"image_id": 1}
    assert BestObjectness()(cues, proposals, x)[0].tolist() == [0, 0]
    chosen, scores = DensityObjectness(density_factor=2.0)(cues, proposals, x)
    assert chosen.tolist() == [2, 2]
    np.testing.assert_allclose(scores, 0.9 * 0.5)
    flat = dataclasses.replace(cues, response_maps=torch.full((2, 16, 24), 1 / 384))
    with_density = DensityScore(density_factor=5.0)(flat, proposals, x)[0]
    assert with_density.tolist() == [2, 2]


def test_density_maps_are_needed(cues, proposals):
    blind = dataclasses.replace(cues, density_maps=None)
    for selector in (DensityScore(), DensityObjectness()):
        with pytest.raises(UserError, match="set the localiser to 'DensityPeaks'"):
            selector.match(blind, proposals)
