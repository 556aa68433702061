"""The report of a recipe: its figures, and a dozen images through every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from .. import __version__
from ..data import ImageLabelMapper, InstanceMapper, SemSegMapper
from ..errors import UserError
from ..images import read_image
from ..labeling import label_dataset_name
from ..visualization import ReportNumber, ReportRow, ReportSection, ReportTable, write_report
from .checkpoint import WSISCheckpointer, file_sha256
from .pseudo_labels import load_label_generator
from .report_panels import Example
from .report_steps import PICTURE, SECOND_STAGES, Step, generator_name, method_of
from .setup import load_config
from .trainer import class_names, dataset_dicts


def make_report(
    path: str, title: str, results: dict, labels_folder: str, detector_folder: str, count: int = 12
) -> None:
    """Write ``path``, a self-contained HTML file.

    Args:
        path: The file.
        title: The recipe's.
        results: What ``metrics.json`` holds: seconds and metrics of every stage so far.
        labels_folder: Folder of the ``pseudo_labels`` stage; its generator decides which steps are
            shown (:mod:`wsis_d2.engine.report_steps`).
        detector_folder: Folder of the stage that learned from the labels: Mask R-CNN, or a semantic
            segmentation network.
        count: Number of images per gallery.

    Raises:
        UserError: The stage of ``detector_folder`` does not learn from pseudo labels.
    """
    labels_cfg = load_config(os.path.join(labels_folder, "config.yaml"))
    detector_cfg = load_config(os.path.join(detector_folder, "config.yaml"))
    supervision = detector_cfg.DATASETS.SUPERVISION
    if supervision not in SECOND_STAGES:
        raise UserError(
            f"the stage in '{detector_folder}' learns from {supervision}, not from pseudo labels: "
            "let a report come after a stage with DATASETS.SUPERVISION "
            f"{' or '.join(SECOND_STAGES)}"
        )
    method = method_of(labels_cfg)
    second_stage = SECOND_STAGES[supervision]
    predict = _predictor(detector_cfg)
    name = label_dataset_name(labels_cfg)
    classes = list(MetadataCatalog.get(name).thing_classes)

    outcome = (second_stage.prediction, second_stage.truth)
    held_out_steps = (PICTURE, *outcome)
    sections = []
    for test_name in detector_cfg.DATASETS.TEST:
        load_truth = second_stage.load_truth(test_name)
        examples = (
            Example(d, read_image(d["file_name"], "RGB"), classes, predict(d), load_truth(d))
            for d in _spread(dataset_dicts(test_name), count)
        )
        sections.append(
            ReportSection(
                f"Held-out images of {test_name}",
                columns=[step.column for step in held_out_steps],
                rows=[_row(held_out_steps, x) for x in examples],
            )
        )

    steps = (*method.steps, *outcome)
    write_report(
        path,
        title,
        summary=method.summary + second_stage.summary,
        tables=tables(results),
        rows=[
            _row(steps, x)
            for x in _labelled_examples(
                labels_cfg, name, classes, predict, second_stage.load_truth(name), count
            )
        ],
        columns=[step.column for step in steps],
        headline=[ReportNumber(label, value, "%") for label, _, value in headline(results)],
        provenance={
            "Generator": generator_name(labels_cfg),
            "Labelled dataset": f"{name}, {len(dataset_dicts(name))} images",
            f"{method.network} (sha256)": file_sha256(labels_cfg.MODEL.WEIGHTS),
            "Seed": str(labels_cfg.SEED),
            "Versions": f"wsis_d2 {__version__}, detectron2 {detectron2_version}, "
            f"torch {torch.__version__}",
        },
        sections=sections,
    )


def _labelled_examples(
    cfg: CfgNode,
    name: str,
    classes: Sequence[str],
    predict: Callable[[dict], dict],
    load_truth: Callable[[dict], object],
    count: int,
) -> Iterator[Example]:
    """Images of the labelled dataset, one at a time: their cues can be large."""
    generator = load_label_generator(cfg, classes)
    mapper = ImageLabelMapper(cfg, is_train=False)
    image_root = MetadataCatalog.get(name).get("image_root", "")
    for d in _spread(dataset_dicts(name), count):
        (labels,) = generator([mapper(d)])
        image = read_image(d["file_name"], "RGB")
        yield Example(d, image, classes, predict(d), load_truth(d), labels, cfg, image_root)


def _row(steps: Sequence[Step], x: Example) -> ReportRow:
    return ReportRow(x.name, [step.draw(x) for step in steps])


def _predictor(cfg: CfgNode) -> Callable[[dict], dict]:
    """A function from a dataset dict to the output of the trained second stage."""
    model = build_model(cfg).eval()
    weights = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    WSISCheckpointer(
        model,
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=class_names(cfg),
        exact=True,
    ).load(weights)
    semantic = cfg.DATASETS.SUPERVISION == "sem_seg"
    mapper = (SemSegMapper if semantic else InstanceMapper)(cfg, is_train=False)

    @torch.no_grad()
    def predict(d: dict) -> dict:
        (output,) = model([mapper(d)])
        return output

    return predict


def _spread(dataset: Sequence[dict], count: int) -> list[dict]:
    """``count`` dicts, evenly over the dataset."""
    index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return [dataset[i] for i in index]


def headline(results: dict) -> list[tuple[str, str, float]]:
    """The figures that matter most: (what, metric, percent), for those that were measured."""
    figures = []
    for what, section, metric in (
        ("Classifier, mAP", "classification", "mAP"),
        ("CAMs, mIoU", "cams", "mIoU"),
        ("Seeds, mIoU", "seeds", "mIoU"),
        ("Semantic labels, mIoU", "pseudo_sem_seg", "mIoU"),
        ("Pseudo masks, AP50", "pseudo_labels", "AP50"),
        ("Mask R-CNN, AP50", "instance_masks", "AP50"),
        ("Segmentation network, mIoU", "sem_seg", "mIoU"),
    ):
        for metrics in _sections(results, section):
            if metrics.get(metric) is not None:
                figures.append((what, metric, metrics[metric]))
    return figures


def tables(results: dict) -> list[ReportTable]:
    """All tables that have a row."""
    made = [
        result_table(results),
        group_table(results),
        semantic_table(results),
        seed_table(results),
        time_table(results),
    ]
    return [table for table in made if table.rows]


def _sections(results: dict, section: str) -> list[dict]:
    """The metrics of this name, of every stage that has them."""
    stages = [stage.get("metrics") or {} for stage in results.values()]
    return [metrics[section] for metrics in stages if section in metrics]


#: Rows of the tables of masks: (what, section of the metrics).
_MASKS = (
    ("Pseudo masks (training images)", "pseudo_labels"),
    ("Mask R-CNN (held-out images)", "instance_masks"),
)


def _mask_metrics(results: dict) -> list[tuple[str, dict]]:
    """(what, metrics) of all masks that were evaluated."""
    return [(what, m) for what, section in _MASKS for m in _sections(results, section)]


def result_table(results: dict) -> ReportTable:
    """VOC-style AP and ABO of the pseudo masks and of Mask R-CNN."""
    columns = ("AP25", "AP50", "AP70", "AP75", "ABO")
    rows = [(what, *(metrics.get(c) for c in columns)) for what, metrics in _mask_metrics(results)]
    return ReportTable(
        "Instance masks, percent",
        ("Masks", *columns),
        rows,
        note="AP as in PASCAL VOC at the IoU of the column; ABO: average best overlap.",
    )


def group_table(results: dict) -> ReportTable:
    """AP50 by the size of the objects and by their number in the image."""
    groups = ("small", "medium", "large", "1 object", "2-4 objects", "5+ objects")
    rows = [
        (what, *(metrics.get(f"AP50-{g}") for g in groups))
        for what, metrics in _mask_metrics(results)
    ]
    return ReportTable(
        "AP50 by size and by number of objects",
        ("Masks", *groups),
        rows,
        note="Small: below 32 × 32 pixels; large: above 96 × 96. The number is of the true objects "
        "in the image.",
    )


#: Rows of the table of label maps: (what, section of the metrics).
_LABEL_MAPS = (
    ("CAMs (training images)", "cams"),
    ("Seeds (their known pixels)", "seeds"),
    ("Semantic labels (training images)", "pseudo_sem_seg"),
    ("Segmentation network (held-out images)", "sem_seg"),
)


def semantic_table(results: dict) -> ReportTable:
    """mIoU from the CAMs to the network that was trained on the label maps."""
    rows = [
        (what, m.get("mIoU"), m.get("best mIoU"))
        for what, section in _LABEL_MAPS
        for m in _sections(results, section)
    ]
    return ReportTable(
        "Semantic label maps, percent",
        ("Label maps", "mIoU", "at the best threshold"),
        rows,
        note="Mean over background and classes. A CAM becomes a label map by a threshold on the "
        "background's score.",
    )


def seed_table(results: dict) -> ReportTable:
    """What the seeds know, and how much of it is right."""
    columns = ("fg precision", "bg precision", "fg recall", "unknown")
    rows = [("Seeds", *(m.get(c) for c in columns)) for m in _sections(results, "seeds")]
    return ReportTable(
        "Seeds, percent of pixels",
        ("", "Class right", "Background right", "Objects found", "Unknown"),
        rows,
        note="Right: among the seeds of a class, of the background. Found: pixels of an object "
        "with a seed of its class, among all of them.",
    )


def time_table(results: dict) -> ReportTable:
    """Wall-clock seconds of every stage."""
    rows = [(name, stage.get("seconds")) for name, stage in results.items() if stage]
    return ReportTable("Time, seconds", ("Stage", "Seconds"), rows)
