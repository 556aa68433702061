"""Make the contour maps of a dataset with a trained network, on one process or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ... import __version__
from ...data import check_image_level_dataset, dataset_dicts, label_dataset_name
from ...data.image_folder import ImageFolder, image_list_digest
from ...labeling import ContourNetwork, either_contour
from ...proposals import contour_file, read_contours, write_contours
from ...weights.checkpoint import load_trained
from ...weights.digest import weights_sha256
from .inference import infer_missing


class ContourFolder(ImageFolder):
    """The contour maps, where the built-in proposals look for them."""

    def path(self, dataset_dict: Mapping[str, Any]) -> str:
        """The image's file; see :func:`wsis_d2.proposals.contour_file`."""
        return str(contour_file(self.folder, dataset_dict["file_name"]))


def make_contours(cfg: CfgNode, resume: bool = False) -> dict:
    """Write the contour maps of the dataset to label to the folder ``CONTOURS.PATH``.

    Every process of the job calls this. Images that have their file already are skipped, where
    weights, settings and dataset are still the same; files of others are replaced.

    Args:
        cfg: ``MODEL.WEIGHTS`` is a trained IRNet, or a network that was trained on masks.
        resume: refuse to replace files of other settings.

    Returns:
        ``{"num_images": int}``; {} in other processes than the main one.

    Raises:
        UserError: see :mod:`wsis_d2.weights.checkpoint`, :mod:`wsis_d2.data` and
            :class:`~wsis_d2.data.image_folder.ImageFolder`; or an earlier map is missing.
    """
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    classes = list(MetadataCatalog.get(name).thing_classes)
    check_image_level_dataset(dataset, classes)
    model = ContourNetwork(cfg)
    load_trained(model.network, cfg, classes)
    folder = ContourFolder(cfg.CONTOURS.PATH, ".png", name, "CONTOURS.PATH")
    if comm.is_main_process():
        sources = {folder.path(d): _sources(cfg, d) for d in dataset}
        folder.open(_settings(cfg, name, dataset), sources, replace=not resume)
    writer = ContourWriter(folder, cfg.CONTOURS.ADD_TO)
    infer_missing(cfg, model.eval(), dataset, folder, writer, "contours")
    return {"num_images": len(dataset)} if comm.is_main_process() else {}


class ContourWriter(DatasetEvaluator):
    """Writes the contour map of each image to its file.

    Args:
        folder: where.
        add_to: folder of the maps of an earlier round, which they join; "": they stand alone.
    """

    def __init__(self, folder: ContourFolder, add_to: str = ""):
        self.folder = folder
        self.add_to = add_to

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``file_name``.
            outputs: dicts with ``contours`` (h, w).
        """
        for x, output in zip(inputs, outputs):
            contours = output["contours"]
            if self.add_to:
                earlier = read_contours(contour_file(self.add_to, x["file_name"]))
                contours = either_contour(contours, earlier)
            write_contours(self.folder.path(x), contours)


def _sources(cfg: CfgNode, d: Mapping[str, Any]) -> list[str]:
    earlier = (
        [str(contour_file(cfg.CONTOURS.ADD_TO, d["file_name"]))] if cfg.CONTOURS.ADD_TO else []
    )
    return [d["file_name"], *earlier]


def _settings(cfg: CfgNode, dataset_name: str, dataset: Sequence[dict]) -> dict:
    """What decides how the contours come out."""
    model = cfg.MODEL
    return {
        "version": f"wsis_d2 {__version__}",
        "what": "contours",
        "dataset": dataset_name,
        "images_sha256": image_list_digest(dataset, dataset_name),
        "weights_sha256": weights_sha256(model.WEIGHTS),
        "meta_architecture": model.META_ARCHITECTURE,
        "model": {k: v for k, v in model.items() if k not in ("WEIGHTS", "DEVICE")},
        "input": {k: v for k, v in cfg.INPUT.items() if "TRAIN" not in k},
        "min_score": cfg.CONTOURS.MIN_SCORE,
        "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "added": bool(cfg.CONTOURS.ADD_TO),
    }
