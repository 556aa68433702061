"""Run a label generator over a dataset and export COCO JSON and semantic label maps.

On one process or many, with the same result.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from ... import __version__
from ...data import (
    check_image_level_dataset,
    dataset_dicts,
    evaluation_dataset,
    ground_truth_json,
    label_dataset_name,
)
from ...data.image_folder import ImageFolder
from ...errors import UserError
from ...evaluation import (
    PatientEvaluators,
    PseudoLabelWriter,
    SemSegLabelWriter,
    evaluate_mask_files,
    flatten_instance_metrics,
)
from ...files import file_sha256
from ...labeling import LabelGenerator, build_label_generator
from ...parallel import one_thread_on_cpu
from ...weights.checkpoint import load_trained
from ..cli import one_sentence
from ..supervision import build_supervision

logger = logging.getLogger(__name__)

#: In the folder of a stage that makes them.
PSEUDO_LABEL_FILE = "pseudo_labels.json"

#: Config sections that decide what the labels are; the rest (output folders, solver, workers) may
#: differ between two runs that give the same labels.
LABEL_SECTIONS = ("INPUT", "MODEL", "PROPOSALS", "CAM", "DENSE_CRF", "PSEUDO_LABELS")


def sem_seg_folder(output_file: str) -> str:
    """Folder of the semantic label maps that belong to a file of pseudo labels."""
    return os.path.splitext(output_file)[0] + "_sem_seg"


def make_pseudo_labels(cfg: CfgNode, output_file: str = "", resume: bool = False) -> dict:
    """Label the images of one dataset and write ``output_file``.

    A generator that gives semantic labels too has their maps (PNG) in :func:`sem_seg_folder`.

    Every process of the job calls this; the main one writes. Finished images are kept beside the
    output until it is complete, so that a killed run goes on with ``resume``.

    Args:
        cfg: ``MODEL.WEIGHTS`` is the trained classifier.
        output_file: COCO-format JSON to write; empty: ``OUTPUT_DIR/pseudo_labels.json``.
        resume: go on after a kill, where weights, config and dataset are still the same.

    Returns:
        ``{"pseudo_labels": {"AP25": ..., "ABO": ..., ...}}`` in percent, and where there are
        semantic labels ``{"pseudo_sem_seg": {"mIoU": ..., ...}}``; {} where the dataset has no
        ground truth; on the main process.

    Raises:
        UserError: see :mod:`wsis_d2.weights.checkpoint` and :mod:`wsis_d2.data`.
    """
    output_file = output_file or os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE)
    name = label_dataset_name(cfg)
    dataset = dataset_dicts(name)
    classes = list(MetadataCatalog.get(name).thing_classes)
    check_image_level_dataset(dataset, classes)
    generator = load_label_generator(cfg, classes)
    info = label_info(cfg, name, generator)
    settings = [info, _relative_to_root(dataset, name)]
    partial_dir = output_file + ".partial"
    replaced = _images_newer_than(partial_dir, dataset)
    comm.synchronize()  # all have looked before anyone writes
    writers = [
        PseudoLabelWriter(
            name,
            output_file,
            info,
            partial_dir=partial_dir,
            fingerprint=json.dumps(settings, sort_keys=True),
            resume=resume,
        )
    ]
    if generator.gives_label_maps:
        folder = sem_seg_folder(output_file)
        writers.append(SemSegLabelWriter(name, folder, info, resume=resume))
    finished = set.intersection(*[writer.finished_image_ids() for writer in writers]) - replaced
    todo = [d for d in dataset if d["image_id"] not in finished]
    if finished:
        logger.info(f"{len(finished)} of {len(dataset)} images are labelled already")
    evaluator = PatientEvaluators(writers)
    start = time.perf_counter()
    if todo:
        loader = build_detection_test_loader(
            dataset=todo,
            mapper=build_supervision(cfg).label_mapper(is_train=False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        try:
            with one_thread_on_cpu():
                results = inference_on_dataset(generator, loader, evaluator)
        except UserError as error:
            raise UserError(
                f"{one_sentence(error)}; then run again with --resume: finished images are kept"
            ) from error
    else:
        results = evaluator.evaluate()
    comm.synchronize()
    if not comm.is_main_process():
        return {}
    seconds = time.perf_counter() - start
    logger.info(f"Labelled {len(todo)} images in {seconds:.0f} s: {output_file}")
    metrics = {key: value for key, value in results.items() if key == "pseudo_sem_seg"}
    gt_json = ground_truth_json(name)
    if not gt_json:
        return metrics
    settings = cfg.TEST.INSTANCE_MASKS
    instance_metrics, table = evaluate_mask_files(
        gt_json,
        output_file,
        iou_thresholds=settings.IOU_THRESHOLDS,
        area_bounds=settings.AREA_BOUNDS,
    )
    truth = evaluation_dataset(name)
    logger.info(f"Pseudo labels of '{name}' against the true masks of '{truth}' (%):\n{table}")
    ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    names = {dataset_id: classes[i] for dataset_id, i in ids.items()}
    return {"pseudo_labels": flatten_instance_metrics(instance_metrics, names), **metrics}


def _relative_to_root(dataset: list[dict], name: str) -> list[dict]:
    """The dataset's dicts, the same wherever its folder lies."""
    root = MetadataCatalog.get(name).get("image_root") or os.curdir
    return [{**d, "file_name": os.path.relpath(d["file_name"], root)} for d in dataset]


def _images_newer_than(folder: str, dataset: list[dict]) -> set:
    """Ids of the images that were written after everything in a folder: what was labelled before a
    kill is not taken up for an image that was replaced since."""
    with suppress(OSError):
        newest = max((f.stat().st_mtime_ns for f in os.scandir(folder)), default=0)
        return {
            d["image_id"]
            for d in dataset
            # An absent image is reported by whoever reads it.
            if os.path.exists(d["file_name"]) and os.stat(d["file_name"]).st_mtime_ns > newest
        }
    return set()


def load_label_generator(cfg: CfgNode, classes: Sequence[str]) -> LabelGenerator:
    """The config's label generator with the weights of ``MODEL.WEIGHTS``.

    It is for inference only, see :meth:`wsis_d2.labeling.LabelGenerator.optimize`.

    Raises:
        UserError: no weights, or weights of other classes or of another method.
    """
    generator = build_label_generator(cfg)
    load_trained(generator.network, cfg, classes)
    generator.eval().optimize()
    return generator


def label_info(cfg: CfgNode, dataset_name: str, generator: LabelGenerator) -> dict:
    """The ``info`` block: how the labels were made. No dates, paths or counts of processes."""
    sections = {key: cfg[key] for key in LABEL_SECTIONS}
    settings = json.loads(json.dumps(sections, default=list))
    for section, key in (
        ("MODEL", "WEIGHTS"),
        ("MODEL", "DEVICE"),
        ("PROPOSALS", "PATH"),
        ("CAM", "PATH"),
    ):
        settings[section].pop(key)
    old_labels = settings["PSEUDO_LABELS"]["SELF_TRAINING"].pop("OLD_LABELS")
    info = {
        "description": f"Pseudo labels of {dataset_name} from image-level labels",
        "generator": cfg.PSEUDO_LABELS.GENERATOR,
        "version": f"wsis_d2 {__version__}",
        "weights_sha256": file_sha256(cfg.MODEL.WEIGHTS),
        "seed": cfg.SEED,
        "config": settings,
    }
    max_count = build_supervision(cfg).max_count
    if max_count is not None:
        info["max_count"] = max_count
    if generator.cams is not None:
        cams = ImageFolder(cfg.CAM.PATH, ".npz", dataset_name, "CAM.PATH")
        info["cams"] = cams.content_fingerprint()
    if old_labels:
        info["old_labels_sha256"] = file_sha256(old_labels)
    return info
