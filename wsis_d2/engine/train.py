"""Train or evaluate one stage: what ``tools/train_net.py`` and the recipes run."""

from __future__ import annotations

import json
import logging
import os

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import UserError
from ..files import write_json
from .checkpoint import WSISCheckpointer
from .pretrained_weights import check_pixel_statistics
from .trainer import Trainer, class_names, dataset_dicts, require_dataset

logger = logging.getLogger(__name__)

SUPERVISIONS = ("masks", "image_labels", "image_counts", "seeds", "sem_seg")


def train(cfg: CfgNode, resume: bool = False) -> dict:
    """Train ``cfg``'s model; every process of the job calls this.

    Args:
        cfg: The config; ``MODEL.WEIGHTS`` is where training starts from.
        resume: Go on from the last checkpoint in ``OUTPUT_DIR``, if there is one.

    Returns:
        Metrics on ``DATASETS.TEST`` at the end, {} where it is empty; on the main process.
    """
    _check_datasets(cfg)
    check_pixel_statistics(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    # Set by DefaultTrainer's evaluation hook, also where a finished run is resumed.
    return trainer._last_eval_results


def evaluate(cfg: CfgNode) -> dict:
    """Evaluate ``MODEL.WEIGHTS`` or, where that is empty, ``OUTPUT_DIR``'s last checkpoint.

    Returns:
        Metrics on ``DATASETS.TEST``, also written to ``OUTPUT_DIR/eval_metrics.json``; on the main
        process.

    Raises:
        UserError: There are no weights, or they are of another model.
    """
    _check_datasets(cfg, only_test=True)
    model = Trainer.build_model(cfg)
    checkpointer = WSISCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=class_names(cfg),
        exact=True,
    )
    weights = cfg.MODEL.WEIGHTS or checkpointer.get_checkpoint_file()
    if not weights:
        raise UserError(
            f"nothing to evaluate: MODEL.WEIGHTS is empty and {cfg.OUTPUT_DIR} has no checkpoint"
        )
    checkpointer.load(weights)
    metrics = Trainer.test(cfg, model)
    if comm.is_main_process() and metrics:
        path = os.path.join(cfg.OUTPUT_DIR, "eval_metrics.json")
        write_json(path, metrics, indent=2)
        logger.info(f"Metrics: {path}\n{json.dumps(metrics, indent=2)}")
    return metrics


def _check_datasets(cfg: CfgNode, only_test: bool = False) -> None:
    """Read what the datasets list: a missing test set must not show up after days of training."""
    if cfg.DATASETS.SUPERVISION not in SUPERVISIONS:
        raise UserError(
            f"DATASETS.SUPERVISION is {cfg.DATASETS.SUPERVISION!r}: choose one of "
            f"{', '.join(SUPERVISIONS)}"
        )
    if cfg.DATASETS.SUPERVISION == "seeds" and cfg.DATASETS.TEST:
        raise UserError(
            f"DATASETS.TEST names {', '.join(cfg.DATASETS.TEST)}, but a model that is trained on "
            "seeds is evaluated by the labels that are made with it (tools/make_pseudo_labels.py): "
            "set DATASETS.TEST to ()"
        )
    for name in cfg.DATASETS.TEST:
        dataset_dicts(name)
    if only_test:
        return
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name the dataset to train on")
    for name in cfg.DATASETS.TRAIN:
        require_dataset(name)
    if cfg.SOLVER.IMS_PER_BATCH % comm.get_world_size():
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {comm.get_world_size()} "
            "processes cannot share evenly: choose a multiple of their number"
        )
    if cfg.DATASETS.SUPERVISION == "masks" and not any(
        not annotation.get("iscrowd", 0)
        for name in cfg.DATASETS.TRAIN
        for d in dataset_dicts(name)
        for annotation in d.get("annotations", ())
    ):
        raise UserError(
            f"there is no instance in {', '.join(cfg.DATASETS.TRAIN)} to train on: if these are "
            "pseudo labels, make them with a lower PSEUDO_LABELS.PEAK_THRESHOLD or MIN_SCORE"
        )
