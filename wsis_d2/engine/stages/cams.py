"""Make the CAMs of a dataset with a trained classifier, on one process or many."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tqdm import tqdm

from ... import __version__
from ...data import check_image_level_dataset, dataset_dicts, label_dataset_name, semantic_truth
from ...data.image_folder import ImageFolder, image_list_digest
from ...evaluation import mean_iou, threshold_confusion_matrices
from ...labeling import (
    MultiScaleCAM,
    full_size_cam,
    optimize_for_inference,
    read_cam,
    write_cam,
)
from ...weights.checkpoint import load_trained
from ...weights.digest import weights_sha256
from .inference import infer_missing

logger = logging.getLogger(__name__)

#: Thresholds among which the best one is sought.
THRESHOLDS = tuple(np.arange(0.05, 0.8, 0.05).round(2).tolist())


def make_cams(cfg: CfgNode, resume: bool = False) -> dict:
    """Write the CAMs of the dataset to label to the folder ``CAM.PATH``.

    Every process of the job calls this. Images that have their file already are skipped, where
    weights, settings and dataset are still the same; files of others are replaced. Where single
    images have other bytes than before, theirs alone are.

    Args:
        cfg: ``MODEL.WEIGHTS`` is the trained :class:`~wsis_d2.modeling.CAMClassifier`.
        resume: refuse to replace files of other settings.

    Returns:
        ``{"cams": {"mIoU", "best mIoU", "best threshold"}}``: mIoU in percent at
        ``CAM.EVAL_THRESHOLD`` and at the best of :data:`THRESHOLDS`; {} where the dataset has no
        ground truth, and in other processes.

    Raises:
        UserError: see :mod:`wsis_d2.weights.checkpoint`, :mod:`wsis_d2.data` and
            :class:`~wsis_d2.data.image_folder.ImageFolder`.
    """
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    classes = list(MetadataCatalog.get(name).thing_classes)
    check_image_level_dataset(dataset, classes)
    model = load_multi_scale_cam(cfg, classes)
    folder = ImageFolder(cfg.CAM.PATH, ".npz", name, "CAM.PATH")
    if comm.is_main_process():
        sources = {folder.path(d): [d["file_name"]] for d in dataset}
        folder.open(_settings(cfg, name, dataset), sources, replace=not resume)
    infer_missing(cfg, model, dataset, folder, CAMWriter(folder), "CAMs")
    return evaluate_cams(cfg) if comm.is_main_process() else {}


def load_multi_scale_cam(cfg: CfgNode, classes: Sequence[str]) -> MultiScaleCAM:
    """The config's classifier with the weights of ``MODEL.WEIGHTS``, as a model that gives CAMs.

    It is for inference only, see :func:`wsis_d2.labeling.optimize_for_inference`.

    Raises:
        UserError: no weights, or weights of other classes or of another method.
    """
    model = MultiScaleCAM(cfg)
    load_trained(model.classifier, cfg, classes)
    optimize_for_inference(model.eval().classifier)
    return model


class CAMWriter(DatasetEvaluator):
    """Writes the CAMs of each image to its file in a folder."""

    def __init__(self, folder: ImageFolder):
        self.folder = folder

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``file_name``.
            outputs: dicts with ``cam`` (C, h, w) and ``class_ids`` (C,).
        """
        for x, output in zip(inputs, outputs):
            write_cam(self.folder.path(x), output["cam"], output["class_ids"])


def evaluate_cams(cfg: CfgNode) -> dict:
    """mIoU of the CAMs in ``CAM.PATH``; see :func:`make_cams`."""
    name = label_dataset_name(cfg)
    truth_of = semantic_truth(name)
    if truth_of is None:
        return {}
    num_labels = len(MetadataCatalog.get(name).thing_classes) + 1
    folder = ImageFolder(cfg.CAM.PATH, ".npz", name, "CAM.PATH")
    thresholds = sorted({*THRESHOLDS, cfg.CAM.EVAL_THRESHOLD})
    matrices = np.zeros((len(thresholds), num_labels, num_labels + 1), np.int64)
    for d in tqdm(dataset_dicts(name), "CAMs against true maps", unit="image", disable=None):
        truth = truth_of(d)
        if truth is not None:
            cam, class_ids = read_cam(folder.path(d))
            cam = full_size_cam(cam, truth.shape, cfg.CAM.STRIDE)
            matrices += threshold_confusion_matrices(
                cam.numpy(), class_ids.numpy(), truth, thresholds, num_labels
            )
    if not matrices.any():
        return {}
    mious = [mean_iou(matrix) for matrix in matrices]
    best = int(np.argmax(mious))
    metrics = {
        "mIoU": mious[thresholds.index(cfg.CAM.EVAL_THRESHOLD)],
        "best mIoU": mious[best],
        "best threshold": thresholds[best],
    }
    logger.info(
        f"CAMs of '{name}': mIoU {metrics['mIoU']:.1f} % at the threshold "
        f"{cfg.CAM.EVAL_THRESHOLD}, {mious[best]:.1f} % at {thresholds[best]}"
    )
    return {"cams": metrics}


def _settings(cfg: CfgNode, dataset_name: str, dataset: Sequence[dict]) -> dict:
    """What decides how the CAMs come out."""
    model = cfg.MODEL
    return {
        "version": f"wsis_d2 {__version__}",
        "what": "class activation maps",
        "dataset": dataset_name,
        "images_sha256": image_list_digest(dataset, dataset_name),
        "weights_sha256": weights_sha256(model.WEIGHTS),
        "meta_architecture": model.META_ARCHITECTURE,
        "backbone": {**model.BACKBONE, **model.RESNETS, **model.TIMM, **model.CLASSIFIER},
        "pixels": [cfg.INPUT.FORMAT, model.PIXEL_MEAN, model.PIXEL_STD],
        "max_pixels": cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST,
        "scales": cfg.CAM.SCALES,
        "flip": cfg.CAM.FLIP,
        "stride": cfg.CAM.STRIDE,
        "correlation": {**cfg.CAM.CORRELATION},
    }
