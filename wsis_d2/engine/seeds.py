"""Make the seeds of a dataset from its CAMs, in parallel processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..data import check_image_level_dataset, read_label_map, semantic_truth, write_label_map
from ..errors import UserError
from ..evaluation import confusion_matrix, seed_metrics
from ..labeling import build_seed_function, full_size_cam, label_dataset_name, read_cam
from ..proposals.cache import read_rgb
from .label_folder import LabelFolder, image_list_digest
from .trainer import dataset_dicts

logger = logging.getLogger(__name__)

# Below this many images per process, starting one costs more than it saves.
_MIN_IMAGES_PER_WORKER = 32


def make_seeds(cfg: CfgNode, resume: bool = False) -> dict:
    """Write the seeds of the dataset to label, from the CAMs in ``CAM.PATH``, to ``SEEDS.PATH``.

    Images that have their file already are skipped, where settings, CAMs and dataset are still the
    same; files of others are replaced.

    Args:
        cfg: Reads ``CAM``, ``SEEDS`` and ``DENSE_CRF``.
        resume: Refuse to replace files of other settings.

    Returns:
        ``{"seeds": {"fg precision", "bg precision", "fg recall", "mIoU", "unknown"}}`` in percent,
        see :func:`wsis_d2.evaluation.seed_metrics`; {} where the dataset has no ground truth.

    Raises:
        UserError: An image, its CAMs or the folder cannot be used; the other images are done first.
    """
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    check_image_level_dataset(dataset, MetadataCatalog.get(name).thing_classes)
    cams = LabelFolder(cfg.CAM.PATH, ".npz", name, "CAM.PATH")
    folder = LabelFolder(cfg.SEEDS.PATH, ".png", name, "SEEDS.PATH")
    make = build_seed_function(cfg)
    folder.open(
        {
            "what": "seeds",
            "dataset": name,
            "images_sha256": image_list_digest(dataset, name),
            "cams": cams.fingerprint(),
            "method": cfg.SEEDS.METHOD,
            "settings": str(make.keywords),
        },
        resume,
    )
    todo = folder.missing(dataset)
    if len(todo) < len(dataset):
        logger.info(f"{len(dataset) - len(todo)} of {len(dataset)} images have their seeds already")
    tasks = [(d["file_name"], cams.path(d), folder.path(d)) for d in todo]
    failures = _run(partial(_make_one, make, cfg.CAM.STRIDE), tasks, cfg.SEEDS.NUM_WORKERS)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(dataset)} images have no seeds, the others are done: "
            + "; ".join(sorted(failures)[:10])
            + ("; ..." if len(failures) > 10 else "")
        )
    return evaluate_seeds(cfg)


def evaluate_seeds(cfg: CfgNode) -> dict:
    """Quality of the seeds in ``SEEDS.PATH``; see :func:`make_seeds`."""
    name = label_dataset_name(cfg)
    truth_of = semantic_truth(name)
    if truth_of is None:
        return {}
    num_labels = len(MetadataCatalog.get(name).thing_classes) + 1
    folder = LabelFolder(cfg.SEEDS.PATH, ".png", name, "SEEDS.PATH")
    matrix = np.zeros((num_labels, num_labels + 1), np.int64)
    for d in tqdm(dataset_dicts(name), "seeds against true maps", unit="image", disable=None):
        truth = truth_of(d)
        if truth is not None:
            matrix += confusion_matrix(read_label_map(folder.path(d)), truth, num_labels)
    if not matrix.any():
        return {}
    metrics = seed_metrics(matrix)
    logger.info(f"Seeds of '{name}' (%): " + ", ".join(f"{k} {v:.1f}" for k, v in metrics.items()))
    return {"seeds": metrics}


def _make_one(make: Callable, stride: int, task: tuple[str, str, str]) -> str:
    """Make the seeds of one image; returns what the user must know, "" where all went well."""
    image_file, cam_file, seed_file = task
    try:
        image = read_rgb(image_file)
        cam, class_ids = read_cam(cam_file)
        cam = full_size_cam(cam, image.shape[:2], stride)
        write_label_map(seed_file, make(image, cam.numpy(), class_ids.numpy()))
    except UserError as error:
        return str(error)
    except ValueError as error:
        return f"the CAMs '{cam_file}' do not belong to '{image_file}' ({error}): make them again"
    return ""


def _run(work: Callable, tasks: list, num_workers: int) -> list[str]:
    """Run ``work`` on each task, in ``num_workers`` processes (0: one per CPU)."""
    num_workers = min(num_workers or _available_cpus(), len(tasks) // _MIN_IMAGES_PER_WORKER)
    with tqdm(total=len(tasks), desc="Seeds", unit="image", mininterval=1.0) as progress:

        def collect(messages) -> list[str]:
            failures = []
            for message in messages:
                failures += [message] if message else []
                progress.update()
            return failures

        if num_workers <= 1:
            return collect(map(work, tasks))
        # Forking a process whose libraries run threads, CUDA's above all, may hang it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, context, torch.set_num_threads, (1,)) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            try:
                return collect(future.result() for future in as_completed(futures))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
