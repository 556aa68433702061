import numpy as np
import pytest
from pycocotools import mask as mask_utils

from wsis_d2.evaluation import evaluate_proposals, format_proposal_metrics
from wsis_d2.proposals import MaskProposals


def box(x0, x1, height=20, width=40):
    mask = np.zeros((height, width), dtype=bool)
    mask[:, x0:x1] = True
    return mask


def truth(image_id, category_id, mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"image_id": image_id, "category_id": category_id, "segmentation": rle}


def proposals(*masks):
    return MaskProposals.from_masks(np.stack(masks), np.linspace(1, 0.1, len(masks)))


def test_recall_and_overlap_by_hand():
    truths = [truth(1, 3, box(0, 10)), truth(1, 3, box(20, 30)), truth("b", 5, box(0, 40))]
    # IoU with the first object: 0.5 (exactly reached) at rank 1, 1 at rank 3; second: 0.8 at rank
    # 2; third: 0.25 at rank 1.
    made = [
        (1, proposals(box(0, 5), box(20, 28), box(0, 10))),
        ("b", proposals(box(0, 10))),
        ("without objects", proposals(box(0, 3), box(1, 3))),
    ]
    metrics = evaluate_proposals(iter(made), truths, budgets=(1, 2, 3))
    assert metrics["recall@1"] == pytest.approx(100 / 3)
    assert metrics["recall@2"] == metrics["recall@3"] == pytest.approx(200 / 3)
    assert metrics["ABO@1"] == pytest.approx(100 * (0.5 + 0 + 0.25) / 3)
    assert metrics["ABO@2"] == pytest.approx(100 * (0.5 + 0.8 + 0.25) / 3)
    assert metrics["ABO@3"] == pytest.approx(100 * (1.0 + 0.8 + 0.25) / 3)
    assert metrics["num_objects"] == 3
    assert metrics["num_proposals"] == 2
    # Class 3 is found whole, class 5 not at all; ABO is a mean over classes.
    assert metrics["oracle_AP50"] == pytest.approx(50)
    assert metrics["oracle_ABO"] == pytest.approx(100 * (0.9 + 0.25) / 2)
    assert "best achievable: AP50 50.0" in format_proposal_metrics(metrics)


def test_more_proposals_and_objects_than_pycocotools_takes_at_once():
    rng = np.random.default_rng(0)
    masks = rng.random((300, 8, 8)) < 0.5
    others = rng.random((300, 8, 8)) < 0.5
    truths = [truth(0, 1, mask) for mask in others]
    metrics = evaluate_proposals([(0, proposals(*masks))], truths, budgets=(300,))
    a, b = masks.reshape(300, -1).astype(float), others.reshape(300, -1).astype(float)
    common = a @ b.T
    iou = common / (a.sum(1)[:, None] + b.sum(1)[None] - common)
    assert metrics["ABO@300"] == pytest.approx(100 * iou.max(axis=0).mean())
    assert metrics["recall@300"] == pytest.approx(100 * (iou.max(axis=0) >= 0.5).mean())


def test_nothing_to_find():
    metrics = evaluate_proposals([(0, proposals(box(0, 3)))], [])
    assert np.isnan(metrics["recall@10"])
    assert metrics["num_objects"] == 0
    truths = [truth(0, 1, box(0, 3))]
    none = MaskProposals([], np.zeros(0), (20, 40))
    assert evaluate_proposals([(0, none)], truths)["recall@200"] == 0
