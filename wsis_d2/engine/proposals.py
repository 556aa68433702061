"""Make the built-in mask proposals of a dataset ahead of the labels, in parallel."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..labeling import label_dataset_name
from ..proposals import build_proposal_source
from .trainer import dataset_dicts


def make_proposals(cfg: CfgNode) -> dict:
    """Fill the cache ``PROPOSALS.PATH`` for the dataset to label; nothing to do for files.

    Returns:
        ``{"num_images": int}``.
    """
    dataset = dataset_dicts(label_dataset_name(cfg))
    source = build_proposal_source(cfg)
    source.prepare(dataset)
    return {"num_images": len(dataset)}
