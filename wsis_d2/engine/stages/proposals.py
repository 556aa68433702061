"""Make the built-in mask proposals of a dataset ahead of the labels, in parallel."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from ...data import dataset_dicts, ground_truth_json, label_dataset_name
from ...evaluation import evaluate_proposals, format_proposal_metrics, load_coco_ground_truths
from ...proposals import build_proposal_source


def make_proposals(cfg: CfgNode, resume: bool = False) -> dict:
    """Fill the cache ``PROPOSALS.PATH`` for the dataset to label.

    Files are there already, and prompted proposals are made with the labels.

    Args:
        cfg: reads ``PROPOSALS``.
        resume: makes no difference: proposals that are there are kept in any case.

    Returns:
        ``{"num_images": int}``, and where true masks of the dataset are known, "proposals": how
        good they are, see :func:`evaluate_proposals`. The masks are evaluated, never learnt from.
    """
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    source = build_proposal_source(cfg)
    source.prepare(dataset)
    results: dict = {"num_images": len(dataset)}
    path = ground_truth_json(name)
    if path and not source.prompted:
        truths = load_coco_ground_truths(path)
        with_truth = {truth["image_id"] for truth in truths}
        metrics = evaluate_proposals(
            ((x["image_id"], source.get(x)) for x in dataset if x["image_id"] in with_truth), truths
        )
        logging.getLogger(__name__).info(
            f"Proposals of '{name}' against its true masks (%):\n{format_proposal_metrics(metrics)}"
        )
        results["proposals"] = metrics
    return results
