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

from ... import __version__
from ...data import dataset_dicts, label_dataset_name
from ...engine.trainer import build_checkpointer
from ...errors import UserError
from ...files import file_sha256, read_json
from ...images import read_image
from ...report import (
    PICTURE,
    SECOND_STAGES,
    Example,
    Method,
    ReportNumber,
    ReportRow,
    ReportSection,
    Step,
    generator_name,
    headline,
    method_of,
    second_stage_of,
    tables,
    write_report,
)
from ..setup import load_config
from ..supervision import build_supervision
from .pseudo_labels import load_label_generator

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
    make_report(path, recipe["title"], metrics, folders["pseudo_labels"], folders["train"])
    return {}


def make_report(
    path: str, title: str, results: dict, labels_folder: str, detector_folder: str, count: int = 12
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

    Raises:
        UserError: the stage of ``detector_folder`` does not learn from pseudo labels.
    """
    labels_cfg = load_config(os.path.join(labels_folder, "config.yaml"))
    detector_cfg = load_config(os.path.join(detector_folder, "config.yaml"))
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
            **_provenance_of_network(method, labels_cfg),
            "Seed": str(labels_cfg.SEED),
            "Versions": f"wsis_d2 {__version__}, detectron2 {detectron2_version}, "
            f"torch {torch.__version__}",
        },
        sections=sections,
    )


def _provenance_of_network(method: Method, cfg: CfgNode) -> dict[str, str]:
    if not cfg.MODEL.WEIGHTS:  # nothing was trained
        return {method.network: cfg.PSEUDO_LABELS.TEXT_BOXES.WEIGHTS}
    return {f"{method.network} (sha256)": file_sha256(cfg.MODEL.WEIGHTS)}


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
    mapper = build_supervision(cfg).label_mapper(is_train=False)
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
