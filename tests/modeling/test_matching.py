"""Best matching against a loop over ground truths and anchors."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher

from wsis_d2.modeling import BestMatcher

THRESHOLDS, LABELS = [0.4, 0.5], [0, -1, 1]


def reference(iou, min_iou):
    """The rule, read aloud: first thresholds, then the best anchors of who has none."""
    num_truths, num_anchors = len(iou), len(iou[0])
    matches, labels = [], []
    for anchor in range(num_anchors):
        column = [iou[truth][anchor] for truth in range(num_truths)]
        matches.append(column.index(max(column)))
        labels.append(1 if max(column) >= 0.5 else -1 if max(column) >= 0.4 else 0)
    positive = {anchor for anchor in range(num_anchors) if labels[anchor] == 1}
    wanted = {}
    for truth in range(num_truths):
        best = max(iou[truth])
        if best == 0 or best < min_iou:
            continue
        for anchor in range(num_anchors):
            if iou[truth][anchor] == best and anchor not in positive:
                wanted.setdefault(anchor, []).append((best, -truth))
    for anchor, wishes in wanted.items():
        matches[anchor] = -max(wishes)[1]
        labels[anchor] = 1
    return matches, labels


@pytest.mark.parametrize("min_iou", [0.0, 0.15, 0.44])
@pytest.mark.parametrize("seed", range(20))
def test_against_a_loop(seed, min_iou):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values: ties, zeros and rivals are common.
    levels = torch.tensor([0, 0, 0.1, 0.2, 0.3, 0.42, 0.45, 0.5, 0.7])
    iou = levels[torch.randint(0, 6 + seed % 4, (4, 9), generator=generator)]
    matches, labels = BestMatcher(THRESHOLDS, LABELS, min_iou)(iou)
    expected_matches, expected_labels = reference(iou.tolist(), min_iou)
    assert labels.tolist() == expected_labels
    positive = labels == 1
    assert matches[positive].tolist() == torch.tensor(expected_matches)[positive].tolist()


def test_every_overlapped_ground_truth_has_an_anchor():
    # The second ground truth's best anchor overlaps the first a little more.
    iou = torch.tensor([[0.8, 0.30, 0.0], [0.0, 0.25, 0.1], [0.0, 0.0, 0.0]])
    matches, labels = BestMatcher(THRESHOLDS, LABELS)(iou)
    assert matches[:2].tolist() == [0, 1]
    # The third one overlaps nothing; stock Detectron2 would make every anchor that misses it
    # positive.
    assert labels.tolist() == [1, 1, 0]
    _, stock_labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(iou)
    assert stock_labels.tolist() == [1, 1, 1]


def test_a_positive_anchor_is_not_taken_away():
    iou = torch.tensor([[0.6, 0.0], [0.3, 0.2]])
    matches, labels = BestMatcher(THRESHOLDS, LABELS)(iou)
    assert (matches[0].item(), labels.tolist()) == (0, [1, 0])


def test_it_can_be_switched_off():
    iou = torch.tensor([[0.6, 0.0, 0.1], [0.0, 0.45, 0.2]])
    matches, labels = BestMatcher(THRESHOLDS, LABELS, min_iou=1.0)(iou)
    stock_matches, stock_labels = Matcher(THRESHOLDS, LABELS)(iou)
    assert torch.equal(matches, stock_matches)
    assert torch.equal(labels, stock_labels)


def test_without_ground_truth_all_is_background():
    matches, labels = BestMatcher(THRESHOLDS, LABELS)(torch.zeros(0, 5))
    assert matches.shape == (5,)
    assert labels.tolist() == [0] * 5
