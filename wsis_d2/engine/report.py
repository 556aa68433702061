"""The report of a recipe: its figures, and a dozen images through every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from pycocotools import mask as mask_utils

from .. import __version__
from ..data import ImageLabelMapper, ground_truth_json
from ..evaluation import load_coco_ground_truths
from ..visualization import (
    ReportColumn,
    ReportNumber,
    ReportPanel,
    ReportRow,
    ReportSection,
    ReportTable,
    draw_heatmap,
    draw_instances,
    draw_peak_responses,
    draw_peaks,
    panel_scale,
    resize_image,
    write_report,
)
from .checkpoint import WSISCheckpointer, file_sha256
from .pseudo_labels import label_dataset_name, load_label_generator
from .setup import load_config
from .trainer import class_names, dataset_dicts

#: Detections below this score are left out of the pictures.
MIN_SHOWN_SCORE = 0.5

COLUMNS = (
    ReportColumn("Picture", "The image and the labels that training was given: nothing else."),
    ReportColumn(
        "Class response map",
        "Strongest response of the labelled classes, before any peak is sought (PRM, section 3).",
    ),
    ReportColumn(
        "Peaks", "Local maxima of the response maps, at the maximum of their peak response map."
    ),
    ReportColumn(
        "Peak responses",
        "Pixels that caused each peak, found by peak backpropagation (PRM, section 3.2).",
    ),
    ReportColumn(
        "Pseudo masks", "The mask proposal chosen for each peak (WISE, section 3.2; PRM, 3.3)."
    ),
    ReportColumn("Mask R-CNN", "Trained on the pseudo masks of all images."),
    ReportColumn("Ground truth", "For comparison; no stage was trained on it."),
)


def make_report(
    path: str, title: str, results: dict, labels_folder: str, detector_folder: str, count: int = 12
) -> None:
    """Write ``path``, a self-contained HTML file.

    Args:
        path: The file.
        title: The recipe's.
        results: What ``metrics.json`` holds: seconds and metrics of every stage so far.
        labels_folder: Folder of the ``pseudo_labels`` stage.
        detector_folder: Folder of the stage that trained Mask R-CNN.
        count: Number of images per gallery.
    """
    labels_cfg = load_config(os.path.join(labels_folder, "config.yaml"))
    detector_cfg = load_config(os.path.join(detector_folder, "config.yaml"))
    detect = _detector(detector_cfg)
    name = label_dataset_name(labels_cfg)
    classes = list(MetadataCatalog.get(name).thing_classes)
    rows = _training_rows(labels_cfg, name, classes, detect, count)
    sections = []
    for test_name in detector_cfg.DATASETS.TEST:
        sections.append(
            ReportSection(
                f"Held-out images of {test_name}",
                columns=(COLUMNS[0], COLUMNS[5], COLUMNS[6]),
                rows=_held_out_rows(test_name, classes, detect, count),
            )
        )
    write_report(
        path,
        title,
        summary=(
            "From image-level class labels to instance masks: a classifier is trained on the "
            "labels, its peaks choose class-agnostic mask proposals, and Mask R-CNN is trained on "
            "the masks so chosen."
        ),
        tables=[result_table(results), group_table(results), time_table(results)],
        rows=rows,
        columns=COLUMNS,
        headline=[ReportNumber(label, value, "%") for label, _, value in headline(results)],
        provenance={
            "Generator": labels_cfg.PSEUDO_LABELS.GENERATOR,
            "Labelled dataset": f"{name}, {len(dataset_dicts(name))} images",
            "Classifier (sha256)": file_sha256(labels_cfg.MODEL.WEIGHTS),
            "Seed": str(labels_cfg.SEED),
            "Versions": f"wsis_d2 {__version__}, detectron2 {detectron2_version}, "
            f"torch {torch.__version__}",
        },
        sections=sections,
    )


def headline(results: dict) -> list[tuple[str, str, float]]:
    """The figures that matter most: (what, metric, percent), for those that were measured."""
    figures = []
    for what, section, metric in (
        ("Classifier, mAP", "classification", "mAP"),
        ("Pseudo masks, AP50", "pseudo_labels", "AP50"),
        ("Mask R-CNN, AP50", "instance_masks", "AP50"),
    ):
        for stage in results.values():
            value = (stage.get("metrics") or {}).get(section, {}).get(metric)
            if value is not None:
                figures.append((what, metric, value))
    return figures


#: Rows of the tables of masks: (what, section of the metrics).
_MASKS = (
    ("Pseudo masks (training images)", "pseudo_labels"),
    ("Mask R-CNN (held-out images)", "instance_masks"),
)


def _mask_metrics(results: dict) -> list[tuple[str, dict]]:
    """(what, metrics) of all masks that were evaluated."""
    stages = [stage.get("metrics") or {} for stage in results.values()]
    return [(what, m[section]) for what, section in _MASKS for m in stages if section in m]


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


def time_table(results: dict) -> ReportTable:
    """Wall-clock seconds of every stage."""
    rows = [(name, stage.get("seconds")) for name, stage in results.items() if stage]
    return ReportTable("Time, seconds", ("Stage", "Seconds"), rows)


def _detector(cfg: CfgNode) -> Callable[[dict], tuple[np.ndarray, list, list]]:
    """A function from a dataset dict to (masks, class ids, scores) of the trained detector."""
    model = build_model(cfg).eval()
    weights = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    WSISCheckpointer(
        model,
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=class_names(cfg),
        exact=True,
    ).load(weights)
    mapper = DatasetMapper(cfg, is_train=False)

    @torch.no_grad()
    def detect(d: dict) -> tuple[np.ndarray, list, list]:
        (output,) = model([mapper(d)])
        instances = output["instances"].to("cpu")
        instances = instances[instances.scores >= MIN_SHOWN_SCORE]
        masks = instances.pred_masks.numpy()
        return masks, instances.pred_classes.tolist(), instances.scores.tolist()

    return detect


def _spread(dataset: Sequence[dict], count: int) -> list[dict]:
    """``count`` dicts, evenly over the dataset."""
    index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return [dataset[i] for i in index]


def _ground_truths(name: str) -> dict[int, list[dict]]:
    path = ground_truth_json(name)
    truths: dict[int, list[dict]] = {}
    for truth in load_coco_ground_truths(path) if path else ():
        truths.setdefault(truth["image_id"], []).append(truth)
    return truths


def _truth_panel(
    image: np.ndarray, truths: list[dict] | None, name: str, classes: Sequence[str], scale: float
) -> ReportPanel:
    if not truths:
        return ReportPanel("no true masks known", None)
    ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    drawn = draw_instances(
        image,
        np.stack([mask_utils.decode(t["segmentation"]).astype(bool) for t in truths]),
        [ids[t["category_id"]] for t in truths],
        class_names=classes,
        scale=scale,
    )
    return ReportPanel(_count(len(truths), "object"), drawn)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _detection_panel(
    image: np.ndarray, detections: tuple, classes: Sequence[str], scale: float
) -> ReportPanel:
    masks, class_ids, scores = detections
    drawn = draw_instances(image, masks, class_ids, scores, classes, scale=scale)
    return ReportPanel(f"{_count(len(masks), 'mask')} of score ≥ {MIN_SHOWN_SCORE}", drawn)


def _training_rows(
    cfg: CfgNode, name: str, classes: list[str], detect: Callable, count: int
) -> list[ReportRow]:
    generator = load_label_generator(cfg, classes)
    mapper = ImageLabelMapper(cfg, is_train=False)
    truths = _ground_truths(name)
    rows = []
    for d in _spread(dataset_dicts(name), count):
        (output,) = generator([mapper(d)])
        cues, labels = output["cues"], output["instances"]
        image = read_image(d["file_name"], "RGB")
        scale = panel_scale(*image.shape[:2])
        class_ids = cues.class_ids.tolist()
        heat = cues.class_response_maps[d["image_labels"]].amax(0).clamp(min=0).cpu().numpy()
        responses = cues.response_maps.cpu().numpy()
        names = ", ".join(classes[c] for c in d["image_labels"])
        panels = [
            ReportPanel(names, resize_image(image, scale)),
            ReportPanel(f"maximum {heat.max():.1f}", draw_heatmap(image, heat, scale=scale)),
            ReportPanel(
                _count(len(cues), "peak"),
                draw_peaks(
                    image,
                    cues.points.cpu().numpy(),
                    class_ids,
                    class_names=classes,
                    color_ids=range(len(cues)),
                    scale=scale,
                ),
            ),
            ReportPanel(
                _count(len(cues), "map"), draw_peak_responses(image, responses, scale=scale)
            ),
            ReportPanel(
                _count(len(labels), "mask"),
                draw_instances(
                    image,
                    labels.pred_masks.numpy(),
                    labels.pred_classes.tolist(),
                    labels.scores.tolist(),
                    classes,
                    scale=scale,
                ),
            ),
            _detection_panel(image, detect(d), classes, scale),
            _truth_panel(image, truths.get(d["image_id"]), name, classes, scale),
        ]
        rows.append(ReportRow(Path(d["file_name"]).name, panels))
    return rows


def _held_out_rows(name: str, classes: list[str], detect: Callable, count: int) -> list[ReportRow]:
    truths = _ground_truths(name)
    rows = []
    for d in _spread(dataset_dicts(name), count):
        image = read_image(d["file_name"], "RGB")
        scale = panel_scale(*image.shape[:2])
        panels = [
            ReportPanel("", resize_image(image, scale)),
            _detection_panel(image, detect(d), classes, scale),
            _truth_panel(image, truths.get(d["image_id"]), name, classes, scale),
        ]
        rows.append(ReportRow(Path(d["file_name"]).name, panels))
    return rows
