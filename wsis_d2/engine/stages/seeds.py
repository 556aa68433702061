"""Make the seeds of a dataset from its CAMs, in parallel processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ... import __version__
from ...data import (
    check_image_level_dataset,
    dataset_dicts,
    label_dataset_name,
    read_label_map,
    semantic_truth,
    write_label_map,
)
from ...data.image_folder import ImageFolder, image_list_digest
from ...errors import UserError
from ...evaluation import confusion_matrix, seed_metrics
from ...images import read_image
from ...labeling import build_seed_function, full_size_cam, read_cam, reduce_image, reduced_cam
from ...parallel import available_cpus, for_each_image
from ...structures import resize_masks

logger = logging.getLogger(__name__)


def make_seeds(cfg: CfgNode, resume: bool = False) -> dict:
    """Write the seeds of the dataset to label, from the CAMs in ``CAM.PATH``, to ``SEEDS.PATH``.

    Images that have their file already are skipped, where settings, CAMs and dataset are still the
    same; files of others are replaced. Where single images or CAMs have other bytes than before,
    theirs alone are.

    Args:
        cfg: reads ``CAM``, ``SEEDS`` and ``DENSE_CRF``.
        resume: refuse to replace files of other settings.

    Returns:
        ``{"seeds": {"fg precision", "bg precision", "fg recall", "mIoU", "unknown"}}`` in percent,
        see :func:`wsis_d2.evaluation.seed_metrics`; {} where the dataset has no ground truth.

    Raises:
        UserError: an image, its CAMs or the folder cannot be used; the other images are done first.
    """
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    check_image_level_dataset(dataset, MetadataCatalog.get(name).thing_classes)
    cams = ImageFolder(cfg.CAM.PATH, ".npz", name, "CAM.PATH")
    folder = ImageFolder(cfg.SEEDS.PATH, ".png", name, "SEEDS.PATH")
    make, max_pixels = build_seed_function(cfg), cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST
    folder.open(
        {
            "version": f"wsis_d2 {__version__}",
            "what": "seeds",
            "dataset": name,
            "images_sha256": image_list_digest(dataset, name),
            "cams": cams.fingerprint(),
            "method": cfg.SEEDS.METHOD,
            "settings": str(make.keywords),
            "max_pixels": max_pixels,
        },
        {folder.path(d): [d["file_name"], cams.path(d)] for d in dataset},
        replace=not resume,
    )
    todo = folder.missing(dataset)
    if len(todo) < len(dataset):
        logger.info(f"{len(dataset) - len(todo)} of {len(dataset)} images have their seeds already")
    tasks = [(d["file_name"], cams.path(d), folder.path(d)) for d in todo]
    work = partial(_make_one, make, cfg.CAM.STRIDE, max_pixels)
    for_each_image(work, tasks, "seeds", cfg.SEEDS.NUM_WORKERS or available_cpus())
    return evaluate_seeds(cfg)


def evaluate_seeds(cfg: CfgNode) -> dict:
    """Quality of the seeds in ``SEEDS.PATH``; see :func:`make_seeds`."""
    name = label_dataset_name(cfg)
    truth_of = semantic_truth(name)
    if truth_of is None:
        return {}
    num_labels = len(MetadataCatalog.get(name).thing_classes) + 1
    folder = ImageFolder(cfg.SEEDS.PATH, ".png", name, "SEEDS.PATH")
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


def _make_one(make: Callable, stride: int, max_pixels: int, task: tuple[str, str, str]) -> str:
    """Make the seeds of one image; returns what the user must know, "" where all went well."""
    image_file, cam_file, seed_file = task
    try:
        image = read_image(image_file)
        size = image.shape[:2]
        image = reduce_image(torch.from_numpy(image).permute(2, 0, 1), max_pixels)
        image = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        cam, class_ids = read_cam(cam_file)
        cam = reduced_cam(cam, size, image.shape[:2], stride)
        cam = full_size_cam(cam, image.shape[:2], stride)
        seeds = make(image, cam.numpy(), class_ids.numpy())
        write_label_map(seed_file, resize_masks(seeds, size))
    except UserError as error:
        return str(error)
    except ValueError as error:
        return f"the CAMs '{cam_file}' do not belong to '{image_file}' ({error}): make them again"
    return ""
