"""Run a label generator over a dataset and export COCO JSON and semantic label maps.

On one process or many, with the same result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from ... import __version__
from ...data import (
    StrongerLabel,
    check_image_level_dataset,
    dataset_classes,
    dataset_dicts,
    evaluation_dataset,
    ground_truth_json,
    label_dataset_name,
)
from ...data.image_folder import ImageFolder
from ...errors import UserError, one_sentence
from ...evaluation import (
    LabelShards,
    LocatedBoxWriter,
    PatientEvaluators,
    PseudoLabelFile,
    PseudoLabelWriter,
    SemSegLabelWriter,
    ShardBoxWriter,
    ShardLabelWriter,
    count_label_noise,
    count_stronger_labels,
    evaluate_mask_files,
    flatten_instance_metrics,
    read_coco_json,
    read_shard_header,
    shard_file,
    shard_header,
)
from ...files import check_writable, file_sha256, load_json
from ...labeling import LabelGenerator, build_label_generator
from ...labeling.synonyms import class_texts
from ...parallel import Shard, one_thread_on_cpu
from ...weights.checkpoint import load_trained
from ...weights.digest import weights_sha256
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


def boxes_file(output_file: str) -> str:
    """File of the boxes that belong to a file of pseudo labels, where there are any."""
    return os.path.splitext(output_file)[0] + "_boxes.json"


def make_pseudo_labels(
    cfg: CfgNode, output_file: str = "", resume: bool = False, shard: Shard | None = None
) -> dict:
    """Label the images of one dataset and write ``output_file``.

    A generator that gives semantic labels too has their maps (PNG) in :func:`sem_seg_folder`; one
    whose localiser gives boxes has these (COCO JSON) in :func:`boxes_file`.

    Every process of the job calls this; the main one writes. Finished images are kept beside the
    output until it is complete, so that a killed run goes on with ``resume``, in any number of
    processes. They share the images as :func:`wsis_d2.parallel.deal_images` says.

    Args:
        cfg: ``MODEL.WEIGHTS`` is the trained classifier, where the generator has one.
        output_file: COCO-format JSON to write; empty: ``OUTPUT_DIR/pseudo_labels.json``.
        resume: go on after a kill, where weights, config and dataset are still the same.
        shard: label these images alone, in a job of their own, for
            :func:`merge_pseudo_labels`; one that is complete is left as it is with ``resume``.

    Returns:
        ``{"pseudo_labels": {"AP25": ..., "ABO": ..., ...}}`` in percent, and where there are
        semantic labels ``{"pseudo_sem_seg": {"mIoU": ..., ...}}``, {} where the dataset has no
        ground truth; where there are boxes also ``{"label_noise": {"labels without a box": ...,
        ...}}``, counts, and where points, boxes or masks are given ``{"stronger_labels": {"images":
        ..., ...}}``, by :func:`wsis_d2.evaluation.count_stronger_labels`; {} of a shard; on the
        main process.

    Raises:
        UserError: see :mod:`wsis_d2.weights.checkpoint` and :mod:`wsis_d2.data`.
    """
    output_file = output_file or os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE)
    labels = _Labels(cfg)
    dataset = labels.dataset if shard is None else shard.select(labels.dataset)
    path = output_file if shard is None else shard_file(output_file, shard)
    replaced = _images_newer_than(f"{path}.partial", dataset)
    complete = (
        shard is not None
        and resume
        and read_shard_header(path) == shard_header(shard, labels.info, labels.fingerprint)
        and not _images_newer_than(path, dataset)
    )
    comm.synchronize()  # all have looked before anyone writes
    if complete:
        logger.info(f"'{path}' is complete already")
        return {}
    writers = labels.writers(output_file, dataset, shard, resume, replaced)
    finished = set.intersection(*[writer.finished_image_ids() for writer in writers]) - replaced
    todo = [d for d in dataset if d["image_id"] not in finished]
    if finished:
        logger.info(f"{len(finished)} of {len(dataset)} images are labelled already")
    evaluator = PatientEvaluators(writers)
    start = time.perf_counter()
    if todo:
        loader = build_supervision(cfg).label_loader(todo)
        try:
            with one_thread_on_cpu(cfg.MODEL.DEVICE):
                results = inference_on_dataset(labels.generator, loader, evaluator)
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
    logger.info(f"Labelled {len(todo)} images in {seconds:.0f} s: {path}")
    return {} if shard else _metrics(cfg, labels, output_file, results)


def merge_pseudo_labels(cfg: CfgNode, output_file: str, num_shards: int) -> dict:
    """Make one file of the labels of all shards: the one that a run without shards would write.

    The shards' files stay. One process calls this.

    Args:
        cfg: the config that the shards were made with.
        output_file: COCO-format JSON to write; the shards lie beside it.
        num_shards: their number.

    Returns:
        See :func:`make_pseudo_labels`.

    Raises:
        UserError: shards are missing, damaged, or of other settings, weights or images.
    """
    labels = _Labels(cfg)
    info, fingerprint, dataset = labels.info, labels.fingerprint, labels.dataset
    check_writable(output_file)
    files = [output_file, *([boxes_file(output_file)] if labels.generator.gives_boxes else [])]
    with ExitStack() as opened:
        shards = [
            opened.enter_context(LabelShards(file, num_shards, info, fingerprint, dataset))
            for file in files
        ]
        maps = labels.map_writers(output_file, dataset, resume=True, replace=False)
        for writer in maps:
            unfinished = len(dataset) - len(writer.finished_image_ids())
            if unfinished:
                raise UserError(
                    f"{unfinished} label maps are missing in '{sem_seg_folder(output_file)}': "
                    "delete the files of the shards and make them again"
                )
        for file, parts in zip(files, shards):
            PseudoLabelFile(labels.name, file, info, dataset).write(parts.annotations)
    return _metrics(cfg, labels, output_file, PatientEvaluators(maps).evaluate())


class _Labels:
    """What labels are made of: images, generator and settings.

    Args:
        cfg: see :func:`make_pseudo_labels`.
    """

    def __init__(self, cfg: CfgNode):
        self.name = label_dataset_name(cfg)
        self.dataset = dataset_dicts(self.name)
        classes = list(MetadataCatalog.get(self.name).thing_classes)
        check_image_level_dataset(self.dataset, classes)
        self.generator = load_label_generator(cfg, classes)
        self.info = label_info(cfg, self.name, self.generator)
        settings = [self.info, _relative_to_root(self.dataset, self.name)]
        text = json.dumps(settings, sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def writers(
        self,
        output_file: str,
        dataset: list[dict],
        shard: Shard | None,
        resume: bool,
        stale: Collection[Hashable],
    ) -> list[PseudoLabelWriter | SemSegLabelWriter]:
        """What writes the labels of ``dataset``, all images or those of the shard."""
        files = [(output_file, PseudoLabelWriter, ShardLabelWriter)]
        if self.generator.gives_boxes:
            # First, so that they are there where a shard's labels are.
            files.insert(0, (boxes_file(output_file), LocatedBoxWriter, ShardBoxWriter))
        writers = [
            (kind if shard is None else partial(kind_of_shard, shard=shard))(
                self.name,
                file,
                self.info,
                dataset_dicts=dataset,
                fingerprint=self.fingerprint,
                resume=resume,
                stale=stale,
            )
            for file, kind, kind_of_shard in files
        ]
        # Shards do not remove what others may be writing.
        maps = self.map_writers(output_file, dataset, resume=resume, replace=shard is None)
        return [*writers, *maps]

    def map_writers(
        self, output_file: str, dataset: list[dict], **options
    ) -> list[SemSegLabelWriter]:
        """What writes label maps, if the generator gives any."""
        if not self.generator.gives_label_maps:
            return []
        folder = sem_seg_folder(output_file)
        return [SemSegLabelWriter(self.name, folder, self.info, dataset, **options)]


def _metrics(cfg: CfgNode, labels: _Labels, output_file: str, results: Mapping[str, dict]) -> dict:
    """The metrics of labels that are complete; ``results`` are those of their writers."""
    metrics = {key: value for key, value in results.items() if key == "pseudo_sem_seg"}
    if labels.generator.gives_boxes:
        metrics["label_noise"] = noise = count_label_noise(
            labels.dataset,
            load_json(boxes_file(output_file)),
            MetadataCatalog.get(labels.name).thing_classes,
            cfg.PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES,
        )
        unlabelled = noise.get("boxes without a label", "not asked for")
        logger.info(
            f"{noise['labels without a box']} of {noise['labels']} labels have no box; boxes "
            f"without a label: {unlabelled}"
        )
    metrics |= stronger_label_metrics(labels.generator.stronger_labels, output_file)
    instance_metrics = instance_label_metrics(cfg, output_file)
    return {"pseudo_labels": instance_metrics, **metrics} if instance_metrics else metrics


def stronger_label_metrics(
    given: Mapping[Hashable, Sequence[StrongerLabel]], output_file: str
) -> dict:
    """What became of the points, boxes and masks, see :func:`make_pseudo_labels`; {} of none."""
    if not given:
        return {}
    counts = count_stronger_labels(given, read_coco_json(output_file)["annotations"])
    logger.info(
        f"{counts['images']} images have stronger labels: {counts['masks']} masks, "
        f"{counts['boxes']} boxes ({counts['ellipses']} without a mask that fits: ellipses), "
        f"{counts['points']} points ({counts['points without a mask']} without a mask: left out)"
    )
    return {"stronger_labels": counts}


def instance_label_metrics(cfg: CfgNode, output_file: str) -> dict:
    """AP and ABO of a file of pseudo labels, as :func:`make_pseudo_labels` gives them; {} where the
    dataset has no ground truth."""
    name = label_dataset_name(cfg)
    gt_json = ground_truth_json(name)
    if not gt_json:
        return {}
    settings = cfg.TEST.INSTANCE_MASKS
    instance_metrics, table = evaluate_mask_files(
        gt_json,
        output_file,
        iou_thresholds=settings.IOU_THRESHOLDS,
        area_bounds=settings.AREA_BOUNDS,
    )
    truth = evaluation_dataset(name)
    logger.info(f"Pseudo labels of '{name}' against the true masks of '{truth}' (%):\n{table}")
    metadata = MetadataCatalog.get(name)
    ids = metadata.thing_dataset_id_to_contiguous_id
    names = {dataset_id: metadata.thing_classes[i] for dataset_id, i in ids.items()}
    return flatten_instance_metrics(instance_metrics, names)


def _relative_to_root(dataset: list[dict], name: str) -> list[dict]:
    """The dataset's dicts, the same wherever its folder lies."""
    root = MetadataCatalog.get(name).get("image_root") or os.curdir
    return [{**d, "file_name": os.path.relpath(d["file_name"], root)} for d in dataset]


def _images_newer_than(path: str, dataset: list[dict]) -> set:
    """Ids of the images that were written after a file, or after everything in a folder: what was
    labelled before a kill is not taken up for an image that was replaced since."""
    with suppress(OSError):
        entries = os.scandir(path) if os.path.isdir(path) else [Path(path)]
        newest = max((entry.stat().st_mtime_ns for entry in entries), default=0)
        return {
            d["image_id"]
            for d in dataset
            # An absent image is reported by whoever reads it.
            if os.path.exists(d["file_name"]) and os.stat(d["file_name"]).st_mtime_ns > newest
        }
    return set()


def load_label_generator(cfg: CfgNode, classes: Sequence[str]) -> LabelGenerator:
    """The config's label generator with the weights of ``MODEL.WEIGHTS``, if it is a trained one.

    It is for inference only, see :meth:`wsis_d2.labeling.LabelGenerator.optimize`.

    Raises:
        UserError: no weights, or weights of other classes or of another method.
    """
    generator = build_label_generator(cfg)
    if generator.network is not None:
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
    settings["MODEL"]["TRANSFORMERS"].pop("NAME")  # may be a folder
    segmenter = settings["PROPOSALS"]["PROMPTED"].pop("WEIGHTS")
    stronger_labels = settings["PSEUDO_LABELS"].pop("STRONGER_LABELS")
    old_labels = settings["PSEUDO_LABELS"]["SELF_TRAINING"].pop("OLD_LABELS")
    detector = settings["PSEUDO_LABELS"]["TEXT_BOXES"].pop("WEIGHTS")
    synonyms = settings["PSEUDO_LABELS"]["TEXT_BOXES"].pop("SYNONYMS")
    info = {
        "description": f"Pseudo labels of {dataset_name} from image-level labels",
        "generator": cfg.PSEUDO_LABELS.GENERATOR,
        "version": f"wsis_d2 {__version__}",
    }
    if generator.network is not None:
        info["weights_sha256"] = weights_sha256(cfg.MODEL.WEIGHTS)
    info |= {"seed": cfg.SEED, "config": settings}
    max_count = build_supervision(cfg).max_count
    if max_count is not None:
        info["max_count"] = max_count
    if generator.cams is not None:
        cams = ImageFolder(cfg.CAM.PATH, ".npz", dataset_name, "CAM.PATH")
        info["cams"] = cams.content_fingerprint()
    if cfg.PROPOSALS.SOURCE == "prompted":
        info["segmenter"] = _other_weights(segmenter)
    if generator.gives_boxes and cfg.PSEUDO_LABELS.LOCALIZER == "TextBoxes":
        classes = dataset_classes(dataset_name)
        info["detector"] = _other_weights(detector)
        info["texts"] = dict(zip(classes, class_texts(classes, synonyms)))
    if stronger_labels:
        info["stronger_labels_sha256"] = file_sha256(stronger_labels)
    if old_labels:
        info["old_labels_sha256"] = file_sha256(old_labels)
    return info


def _other_weights(weights: str) -> str:
    """SHA-256 of what a folder holds, or the name that a hub knows the weights by."""
    return weights_sha256(weights) if os.path.isdir(weights) else weights
