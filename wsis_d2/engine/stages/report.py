"""The report of a recipe: its figures, masks to be reviewed, a dozen images through every step."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from ... import __version__
from ...data import (
    Review,
    dataset_dicts,
    ground_truth_json,
    label_dataset_name,
    make_image_level,
    read_review,
)
from ...engine.trainer import build_checkpointer
from ...errors import UserError
from ...files import read_json
from ...images import read_image
from ...report import (
    PICTURE,
    PSEUDO_MASKS_OF_FILE,
    SECOND_STAGES,
    Example,
    Method,
    PseudoMasks,
    ReportNumber,
    ReportPanel,
    ReportRow,
    ReportSection,
    Step,
    dataset_tables,
    generator_name,
    headline,
    method_of,
    review_task,
    second_stage_of,
    tables,
    write_report,
)
from ...weights.digest import weights_sha256
from ..supervision import build_supervision
from .pseudo_labels import load_label_generator
from .written_config import load_written_config

#: In a recipe's output folder.
REPORT_FILE = "report.html"
RECIPE_FILE = "recipe.json"


def make_recipe_report(cfg: CfgNode, resume: bool = False) -> dict:
    """The report of the recipe that this stage belongs to, in the folder above ``OUTPUT_DIR``.

    Args:
        cfg: of the stage.
        resume: makes no difference: a report is always written anew.
    """
    output = os.path.dirname(cfg.OUTPUT_DIR)
    recipe = read_json(os.path.join(output, RECIPE_FILE))
    # Of several stages of one kind, the last.
    folders = {stage["run"]: os.path.join(output, stage["name"]) for stage in recipe["stages"]}
    metrics = read_json(os.path.join(output, "metrics.json"))
    path = os.path.join(output, REPORT_FILE)
    make_report(
        path,
        recipe["title"],
        metrics,
        folders["pseudo_labels"],
        folders["train"],
        count=cfg.REPORT.NUM_EXAMPLES,
        num_reviewed=cfg.REPORT.NUM_REVIEWED,
        now=cfg,
    )
    return {}


def make_report(
    path: str,
    title: str,
    results: dict,
    labels_folder: str,
    detector_folder: str,
    count: int = 12,
    num_reviewed: int = 300,
    now: CfgNode | None = None,
) -> None:
    """Write ``path``, a self-contained HTML file.

    Args:
        path: the file.
        title: the recipe's.
        results: what ``metrics.json`` holds: seconds and metrics of every stage so far.
        labels_folder: folder of the ``pseudo_labels`` stage; its generator decides which steps are
            shown (:mod:`wsis_d2.report.steps`).
        detector_folder: folder of the stage that learned from the labels: Mask R-CNN, or a semantic
            segmentation network.
        count: number of images per gallery.
        num_reviewed: number of images whose masks can be reviewed with a picture.
        now: see :func:`load_written_config`.

    Raises:
        UserError: the stage of ``detector_folder`` does not learn from pseudo labels.
    """
    labels_cfg = load_written_config(labels_folder, now)
    detector_cfg = load_written_config(detector_folder, now)
    second_stage = second_stage_of(detector_cfg)
    if second_stage is None:
        raise UserError(
            f"the stage in '{detector_folder}' learns from {detector_cfg.DATASETS.SUPERVISION}, "
            "not from pseudo labels: let a report come after a stage with DATASETS.SUPERVISION "
            f"{' or '.join(SECOND_STAGES)}"
        )
    method = method_of(labels_cfg)
    predict = _predictor(detector_cfg)
    name = label_dataset_name(labels_cfg)
    classes = list(MetadataCatalog.get(name).thing_classes)
    labelled = _Images(name, classes, predict, second_stage.load_truth(name))
    outcome = (second_stage.prediction, second_stage.truth)
    learns_masks = second_stage is SECOND_STAGES["masks"]
    masks = _pseudo_masks(detector_cfg.DATASETS.PSEUDO.JSON, name) if learns_masks else None

    sections = [_dataset_section(labelled, masks)]
    measured = tables(results)
    sections += [ReportSection("Measurements", tables=measured)] if measured else []
    if masks is not None:
        done = _heeded_review(detector_cfg, masks.file)
        sections.append(_review_section(labelled, masks, done, num_reviewed))
        sections += _failure_sections(labelled, masks, outcome, min(count, 8))
    sections.append(_steps_section(labels_cfg, labelled, (*method.steps, *outcome), count))
    for test_name in detector_cfg.DATASETS.TEST:
        held_out = _Images(test_name, classes, predict, second_stage.load_truth(test_name))
        sections.append(_held_out_section(held_out, (PICTURE, *outcome), count))
    write_report(
        path,
        title,
        summary=method.summary + second_stage.summary,
        sections=sections,
        headline=[ReportNumber(label, value, "%") for label, _, value in headline(results)],
        provenance={
            "Generator": generator_name(labels_cfg),
            "Labelled dataset": f"{name}, {len(dataset_dicts(name))} images",
            **_provenance_of_network(method, labels_cfg),
            "Seed": str(labels_cfg.SEED),
            "Versions": f"wsis_d2 {__version__}, detectron2 {detectron2_version}, "
            f"torch {torch.__version__}",
        },
    )


def _provenance_of_network(method: Method, cfg: CfgNode) -> dict[str, str]:
    if not cfg.MODEL.WEIGHTS:  # nothing was trained
        return {method.network: cfg.PSEUDO_LABELS.TEXT_BOXES.WEIGHTS}
    return {f"{method.network} (sha256)": weights_sha256(cfg.MODEL.WEIGHTS)}


@dataclass(frozen=True)
class _Images:
    """A dataset, what the second stage makes of its images, and what is true of them.

    Attributes:
        name: of the dataset.
        classes: names of all classes.
        predict: from a dataset dict to the output of the second stage.
        load_truth: from a dataset dict to its truth.
    """

    name: str
    classes: Sequence[str]
    predict: Callable[[dict], dict]
    load_truth: Callable[[dict], object]

    @functools.cached_property
    def dicts(self) -> list[dict]:
        """The dataset's dicts."""
        return dataset_dicts(self.name)

    @property
    def by_id(self) -> dict[Hashable, dict]:
        """The same by their image ids."""
        return {d["image_id"]: d for d in self.dicts}

    def example(self, d: dict, **labels) -> Example:
        """An image for the gallery; ``labels`` are what it needs of the label generator."""
        image = read_image(d["file_name"], "RGB")
        return Example(d, image, self.classes, self.predict(d), self.load_truth(d), **labels)


def _dataset_section(images: _Images, masks: PseudoMasks | None) -> ReportSection:
    dicts = make_image_level(images.dicts)
    sizes = [(d["height"], d["width"]) for d in dicts if {"height", "width"} <= set(d)]
    counts = masks.count(images.classes) if masks is not None else []
    return ReportSection(
        "Dataset",
        f"{images.name}: {len(dicts):,} images were labelled.",
        tables=dataset_tables(dicts, images.classes, sizes, counts),
    )


def _pseudo_masks(path: str, name: str) -> PseudoMasks | None:
    """The masks that the second stage learned from, None where they are gone."""
    return PseudoMasks(path, ground_truth_json(name)) if os.path.isfile(path) else None


def _heeded_review(cfg: CfgNode, labels_file: str) -> Review | None:
    """The review by which the second stage learned, where it is still that of these labels."""
    path = cfg.DATASETS.PSEUDO.REVIEW
    if not path:
        return None
    try:
        review = read_review(path)
        review.check_file(labels_file)
    except UserError:
        return None
    return review


def _review_section(
    images: _Images, masks: PseudoMasks, done: Review | None, count: int
) -> ReportSection:
    text = (
        "Decide which pseudo masks the second stage is to learn from, download the decisions as "
        "review.json, and run the recipe again with --review review.json: what comes before the "
        "second stage is not run again."
    )
    if done is not None:
        text += " The decisions that this round heeded are below, as far as they have a picture."
    task = review_task(masks, images.by_id, images.classes, images.predict, done, count)
    return ReportSection("Review", text, review=task)


def _failure_sections(
    images: _Images, masks: PseudoMasks, outcome: Sequence[Step], count: int
) -> list[ReportSection]:
    """One section with the images whose true masks are covered worst, none without truth."""
    steps, records = (PICTURE, PSEUDO_MASKS_OF_FILE, *outcome), images.by_id
    rows = []
    for image_id, iou in masks.failures(count):
        x = images.example(records[image_id])
        instances = masks.instances(image_id, x.image.shape[:2], images.classes)
        x = replace(x, labels={"instances": instances})
        title = f"{x.name}: mean IoU of the true masks {100 * iou:.0f} %"
        rows.append(ReportRow(title, _panels(steps, x)))
    if not rows:
        return []
    return [
        ReportSection(
            "Failure cases",
            "The labelled images whose true masks the pseudo masks cover worst: the mean over an "
            "image's true masks of the highest IoU with a pseudo mask of their class.",
            columns=[step.column for step in steps],
            rows=rows,
        )
    ]


def _steps_section(
    cfg: CfgNode, images: _Images, steps: Sequence[Step], count: int
) -> ReportSection:
    return _gallery("Step by step", steps, _labelled_examples(cfg, images, count))


def _labelled_examples(cfg: CfgNode, images: _Images, count: int) -> Iterator[Example]:
    """Images of the labelled dataset, one at a time: their cues can be large."""
    generator = load_label_generator(cfg, images.classes)
    mapper = build_supervision(cfg).label_mapper(is_train=False)
    image_root = MetadataCatalog.get(images.name).get("image_root", "")
    for d in _spread(images.dicts, count):
        (labels,) = generator([mapper(d)])
        yield images.example(d, labels=labels, cfg=cfg, image_root=image_root)


def _held_out_section(images: _Images, steps: Sequence[Step], count: int) -> ReportSection:
    examples = map(images.example, _spread(images.dicts, count))
    return _gallery(f"Held-out images of {images.name}", steps, examples)


def _gallery(title: str, steps: Sequence[Step], examples: Iterable[Example]) -> ReportSection:
    """All steps of each image; without the truth, the last of them, where none of it is known."""
    rows = [ReportRow(x.name, _panels(steps, x)) for x in examples]
    if all(row.panels[-1].image is None for row in rows):
        steps = steps[:-1]
        rows = [replace(row, panels=row.panels[:-1]) for row in rows]
    return ReportSection(title, columns=[step.column for step in steps], rows=rows)


def _panels(steps: Sequence[Step], x: Example) -> list[ReportPanel]:
    return [step.draw(x) for step in steps]


def _predictor(cfg: CfgNode) -> Callable[[dict], dict]:
    """A function from a dataset dict to the output of the trained second stage."""
    model = build_model(cfg).eval()
    weights = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    build_checkpointer(cfg, model, exact=True).load(weights)
    mapper = build_supervision(cfg).mapper(is_train=False)

    @torch.no_grad()
    def predict(d: dict) -> dict:
        (output,) = model([mapper(d)])
        return output

    return predict


def _spread(dataset: Sequence[dict], count: int) -> list[dict]:
    """``count`` dicts, evenly over the dataset."""
    index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return [dataset[i] for i in index]
