"""Evaluation of one COCO-format file against another."""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..errors import UserError
from ..structures import mask_area
from ..structures.masks import MAX_PIXELS, RLE
from .coco_format import ground_truths_of, image_sizes, load_coco_detections, read_coco_json
from .instance_ap import evaluate_instance_masks
from .metrics_table import format_instance_metrics

logger = logging.getLogger(__name__)


def _examples(ids) -> str:
    return ", ".join(repr(i) for i in sorted(ids, key=str)[:3])


def _check_images(gt_file, pred_file, gt, detections, pred) -> None:
    gt_ids = {image["id"] for image in gt["images"]}
    pred_ids = {d["image_id"] for d in detections}
    listed = {image["id"] for image in pred["images"]} if pred else pred_ids
    common = gt_ids & (listed | pred_ids)
    if (listed or pred_ids) and not common:
        raise UserError(
            f"'{gt_file}' and '{pred_file}' have no image id in common "
            f"(for example {_examples(gt_ids)} and {_examples(listed | pred_ids)})"
        )
    if pred_ids - gt_ids:
        logger.warning(
            f"{len(pred_ids - gt_ids)} images of '{pred_file}' are not in '{gt_file}': ignored."
        )
    if pred and gt_ids - listed:
        logger.warning(
            f"{len(gt_ids - listed)} of the {len(gt_ids)} images of '{gt_file}' are not listed in "
            f"'{pred_file}': their objects count as missed."
        )


def _check_categories(gt_file, pred_file, gt, detections, pred) -> None:
    names = {category["id"]: category["name"] for category in gt["categories"]}
    unknown = {d["category_id"] for d in detections} - set(names)
    if unknown:
        raise UserError(
            f"'{pred_file}' has category ids that '{gt_file}' does not know: {_examples(unknown)} "
            f"(known are {_examples(names)}{', ...' * (len(names) > 3)})"
        )
    for category in pred["categories"] if pred else []:
        name = names.get(category["id"], category["name"])
        if name != category["name"]:
            raise UserError(
                f"category {category['id']} is '{name}' in '{gt_file}' and '{category['name']}' in "
                f"'{pred_file}': both files must use the same category ids"
            )


def _area(annotation: Mapping[str, Any], rle: RLE) -> float:
    """What an annotation says of its area in pixels; that of its mask where it says nothing."""
    area = annotation.get("area")
    is_area = isinstance(area, int | float) and 0 <= area <= MAX_PIXELS
    return area if is_area else float(mask_area(rle))


def evaluate_mask_files(
    gt_file: str | os.PathLike,
    pred_file: str | os.PathLike,
    coco: bool = False,
    iou_thresholds: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
    area_bounds: tuple[float, float] = (1024.0, 9216.0),
) -> tuple[dict[str, Any], str]:
    """Evaluate the masks of a COCO file against the true masks of another.

    All images of ``gt_file`` count. Crowd regions are no objects, except to COCO's own evaluation.

    Args:
        gt_file: COCO dataset file with the true instances.
        pred_file: COCO dataset file (such as pseudo labels; scores default to 1) or a list of COCO
            results.
        coco: also run COCO's evaluation of masks.
        iou_thresholds, area_bounds: see :func:`evaluate_instance_masks`.

    Returns:
        the result of :func:`evaluate_instance_masks`, with ``"coco"`` added on demand (AP, AP50,
        AP75, APs, APm, APl in percent; nan where there is no object); and a table of it.

    Raises:
        UserError: a file is missing or not in COCO format, no image ids are in common, a category
            is unknown or named differently, or a mask cannot be read.
    """
    gt = read_coco_json(gt_file)
    truths = ground_truths_of(gt, os.fspath(gt_file))
    # What the files hold beside the masks is most of what they take in memory.
    gt = gt if coco else {**gt, "annotations": []}
    detections, pred = load_coco_detections(pred_file, image_sizes(gt))
    pred = pred and {**pred, "annotations": []}
    _check_images(gt_file, pred_file, gt, detections, pred)
    _check_categories(gt_file, pred_file, gt, detections, pred)
    gt_ids = {image["id"] for image in gt["images"]}
    detections = [d for d in detections if d["image_id"] in gt_ids]

    metrics = evaluate_instance_masks(detections, truths, iou_thresholds, area_bounds)
    class_names = {category["id"]: category["name"] for category in gt["categories"]}
    table = format_instance_metrics(metrics, class_names)
    if coco:
        metrics["coco"] = evaluate_coco(detections, gt, os.fspath(gt_file))
        numbers = ", ".join(f"{key} {value:.1f}" for key, value in metrics["coco"].items())
        table += f"\n\nCOCO's evaluation of masks: {numbers}"
    return metrics, table


def evaluate_coco(
    detections: list[dict[str, Any]], gt: dict[str, Any], gt_file: str = ""
) -> dict[str, float]:
    """COCO's evaluation of masks (pycocotools), at most 100 detections per image.

    Args:
        detections: as :func:`load_coco_detections` returns; images and categories of ``gt`` only.
        gt: a COCO dataset, read from ``gt_file``, which error messages name.

    Returns:
        AP, AP50, AP75, APs, APm, APl in percent; nan where there is no object.

    Raises:
        UserError: a mask cannot be read.
    """
    # Crowd regions take part here.
    everything = {**gt, "annotations": [{**a, "iscrowd": 0} for a in gt["annotations"]]}
    truths = [
        {
            **truth,
            "id": number,
            "area": _area(annotation, truth["segmentation"]),
            "iscrowd": int(bool(annotation.get("iscrowd", 0))),
        }
        for number, (truth, annotation) in enumerate(
            zip(ground_truths_of(everything, gt_file), gt["annotations"]), start=1
        )
    ]
    found = [
        {**d, "id": number, "area": float(mask_area(d["segmentation"])), "iscrowd": 0}
        for number, d in enumerate(detections, start=1)
    ]

    def index(annotations):
        api = COCO()
        api.dataset = {**gt, "annotations": annotations}
        api.createIndex()
        return api

    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truths), index(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats[:6] < 0, np.nan, 100 * evaluation.stats[:6])
    return dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), stats.tolist()))
