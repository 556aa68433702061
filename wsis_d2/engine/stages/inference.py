"""Run a model over the images of a folder that have no file yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm

from ...data.image_folder import ImageFolder
from ...errors import UserError, one_sentence
from ...parallel import one_thread_on_cpu, synchronize_patiently
from ..supervision import build_supervision

logger = logging.getLogger(__name__)


def infer_missing(
    cfg: CfgNode,
    model: torch.nn.Module,
    dataset: Sequence[dict],
    folder: ImageFolder,
    writer: DatasetEvaluator,
    what: str,
) -> None:
    """Write the files of the images that have none; every process of the job calls this.

    Args:
        cfg: of the stage.
        model: gives what is written; in evaluation mode.
        dataset: the images.
        folder: the main process has opened it.
        writer: writes to it.
        what: what is made, in the plural, for the log.

    Raises:
        UserError: as the model or the writer.
    """
    comm.synchronize()
    todo = folder.missing(dataset)
    comm.synchronize()  # all have looked
    if len(todo) < len(dataset):
        done = len(dataset) - len(todo)
        logger.info(f"{done} of {len(dataset)} images have their {what} already")
    if todo:
        start = time.perf_counter()
        loader = build_supervision(cfg).label_loader(todo)
        try:
            with one_thread_on_cpu(cfg.MODEL.DEVICE):
                inference_on_dataset(model, loader, writer)
        except UserError as error:
            raise UserError(
                f"{one_sentence(error)}; then run again: finished images are kept"
            ) from error
        seconds = time.perf_counter() - start
        logger.info(f"{what} of {len(todo)} images in {seconds:.0f} s: {folder.folder}")
    synchronize_patiently()  # shares of the images take unequal times
