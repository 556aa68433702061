"""How good mask proposals are, whatever the classes: recall, best overlap and what they allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from ..structures import MaskProposals, mask_iou
from .instance_ap import evaluate_instance_masks


def evaluate_proposals(
    proposals: Iterable[tuple[Hashable, MaskProposals]],
    ground_truths: Sequence[Mapping[str, Any]],
    budgets: Sequence[int] = (10, 50, 200),
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """Quality of the best proposals of each image.

    The recall at N is the part of the objects that one of the first N proposals of their image
    reaches; ABO at N is the mean over the objects (Pont-Tuset and Van Gool, ICCV 2015, without
    their mean over classes) of the highest IoU. The oracle takes, for every object, the best
    proposal at hand as its mask, with the object's class: no choice among the proposals gives a
    higher AP.

    Args:
        proposals: image id and proposals of each image; made one by one where it is a generator.
        ground_truths: as by :func:`load_coco_ground_truths`, masks of the same size. Those of
            images without proposals do not count.
        budgets: N, ascending.
        iou_threshold: an object is reached from here on.

    Returns:
        in percent (nan without objects) ``"recall@10"``, ``"ABO@10"`` and so on,
        ``"oracle_AP50"``, ``"oracle_ABO"``; and ``"num_objects"``, ``"num_proposals"`` (mean per
        image).
    """
    truths = defaultdict(list)
    for truth in ground_truths:
        truths[truth["image_id"]].append(truth)
    overlaps: list[np.ndarray] = []  # per object: (budgets,) highest IoU
    counts, seen, oracle = [], [], []
    for image_id, masks in proposals:
        counts.append(len(masks))
        its = truths[image_id]
        seen += its
        iou = mask_iou(masks.masks[: budgets[-1]], [truth["segmentation"] for truth in its])
        for truth, row in zip(its, iou.T):
            overlaps.append(np.array([row[:budget].max(initial=0.0) for budget in budgets]))
            if len(row):
                oracle.append(
                    {
                        "image_id": image_id,
                        "category_id": truth["category_id"],
                        "segmentation": masks.masks[int(row.argmax())],
                        "score": float(row.max()),
                    }
                )
    best = np.array(overlaps).reshape(-1, len(budgets))
    metrics: dict[str, float] = {}
    for budget, column in zip(budgets, best.T):
        metrics[f"recall@{budget}"] = _percent(column >= iou_threshold)
        metrics[f"ABO@{budget}"] = _percent(column)
    if seen:
        found = evaluate_instance_masks(oracle, seen, iou_thresholds=(0.5,))
        metrics["oracle_AP50"], metrics["oracle_ABO"] = found["AP50"], found["ABO"]
    else:
        metrics["oracle_AP50"] = metrics["oracle_ABO"] = float("nan")
    metrics["num_objects"] = len(best)
    metrics["num_proposals"] = float(np.mean(counts)) if counts else 0.0
    return metrics


def format_proposal_metrics(metrics: Mapping[str, float]) -> str:
    """A table of what :func:`evaluate_proposals` gives."""
    budgets = [int(key.split("@")[1]) for key in metrics if key.startswith("recall@")]
    rows = [[n, metrics[f"recall@{n}"], metrics[f"ABO@{n}"]] for n in budgets]
    table = tabulate(rows, headers=["proposals", "recall", "ABO"], floatfmt=".1f")
    return (
        f"{table}\nbest achievable: AP50 {metrics['oracle_AP50']:.1f}, "
        f"ABO {metrics['oracle_ABO']:.1f}; {metrics['num_objects']} objects, "
        f"{metrics['num_proposals']:.0f} proposals per image"
    )


def _percent(values: np.ndarray) -> float:
    return 100.0 * float(np.mean(values)) if len(values) else float("nan")
