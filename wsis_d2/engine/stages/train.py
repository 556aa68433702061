"""Train or evaluate one stage: what ``tools/train_net.py`` and the recipes run."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.utils import comm

from ...data import dataset_dicts, require_dataset
from ...errors import UserError
from ...weights.pretrained import check_pixel_statistics
from ..supervision import build_supervision
from ..train_loop import evaluate_checkpoint
from ..trainer import Trainer, build_checkpointer


def train(cfg: CfgNode, resume: bool = False) -> dict:
    """Train ``cfg``'s model; every process of the job calls this.

    Args:
        cfg: the config; ``MODEL.WEIGHTS`` is where training starts from.
        resume: go on from the last checkpoint in ``OUTPUT_DIR``, if there is one.

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
        UserError: there are no weights, or they are of another model.
    """
    _check_datasets(cfg, only_test=True)
    model = Trainer.build_model(cfg)
    checkpointer = build_checkpointer(cfg, model, exact=True)
    return evaluate_checkpoint(
        checkpointer, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", lambda: Trainer.test(cfg, model)
    )


def _check_datasets(cfg: CfgNode, only_test: bool = False) -> None:
    """Read what the datasets list: a missing test set must not show up after days of training."""
    supervision = build_supervision(cfg)
    supervision.check_config()
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
    supervision.check_training_data()
