"""The figures of a recipe's stages as tables of the report."""

from __future__ import annotations

from .page import ReportTable


def headline(results: dict) -> list[tuple[str, str, float]]:
    """The figures that matter most: (what, metric, percent), for those that were measured."""
    figures = []
    for what, section, metric in (
        ("Classifier, mAP", "classification", "mAP"),
        ("CAMs, mIoU", "cams", "mIoU"),
        ("Seeds, mIoU", "seeds", "mIoU"),
        ("Semantic labels, mIoU", "pseudo_sem_seg", "mIoU"),
        ("Pseudo masks, AP50", "pseudo_labels", "AP50"),
        ("Combined masks, AP50", "combined_labels", "AP50"),
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
        reliability_table(results),
        semantic_table(results),
        seed_table(results),
        label_noise_table(results),
        stronger_label_table(results),
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
    ("Combined masks (training images)", "combined_labels"),
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


def reliability_table(results: dict) -> ReportTable:
    """The reliability curve of combined masks: what their scores promise and what they keep."""
    rows, notes = [], []
    for curve in _sections(results, "calibration"):
        notes.append(f"Expected calibration error: {curve['ECE']:.1f} %.")
        rows += [
            (f"{b['from']:.0f} to {b['to']:.0f}", b["count"], b["score"], b["right"])
            for b in curve["bins"]
            if b["count"]
        ]
    return ReportTable(
        "Reliability of the scores, percent",
        ("Score", "Masks", "Mean score", "Right"),
        rows,
        note=" ".join(
            ["Right: with an IoU of at least 0.5 with a true object of the class.", *notes]
        ),
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


def label_noise_table(results: dict) -> ReportTable:
    """Labels without a box and boxes without a label, of each class."""
    columns = ("labels", "labels without a box", "boxes", "boxes without a label")
    rows = []
    for counts in _sections(results, "label_noise"):
        rows.append(("All classes", *(counts.get(c) for c in columns)))
        names = [key.removeprefix("labels-") for key in counts if key.startswith("labels-")]
        rows += [(name, *(counts.get(f"{c}-{name}") for c in columns)) for name in names]
    return ReportTable(
        "Where labels and detector disagree",
        ("Class", "Labels", "without a box", "Boxes", "without a label"),
        rows,
        note="A label without a box is wrong, or of an object that the detector overlooked. A box "
        "without a label is of a label that is missing, or a mistake of the detector; a dash: "
        "nobody looked for these (PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES).",
    )


def stronger_label_table(results: dict) -> ReportTable:
    """Points, boxes and masks that were given, and what did not become of them."""
    columns = ("images", "masks", "boxes", "points", "ellipses", "points without a mask")
    rows = [
        tuple(counts.get(c) for c in columns) for counts in _sections(results, "stronger_labels")
    ]
    return ReportTable(
        "Stronger labels that were given",
        ("Images", "Masks", "Boxes", "Points", "boxes as ellipses", "points without a mask"),
        rows,
        note="No pseudo mask fits a box that became an ellipse, and a point without a mask lies in "
        "none: it has no label.",
    )


def time_table(results: dict) -> ReportTable:
    """Wall-clock seconds of every stage."""
    rows = [(name, stage.get("seconds")) for name, stage in results.items() if stage]
    return ReportTable("Time, seconds", ("Stage", "Seconds"), rows)
