"""Evaluators for Detectron2's inference loop, and the plain functions under them."""

from .classification import MultiLabelEvaluator, multilabel_average_precision
from .coco_format import (
    load_coco_detections,
    load_coco_ground_truths,
    read_coco_json,
    read_json,
    to_rle,
)
from .instance_ap import evaluate_instance_masks
from .instance_evaluator import InstanceMaskEvaluator
from .mask_files import evaluate_coco, evaluate_mask_files
from .metrics_table import flatten_instance_metrics, format_instance_metrics
from .pseudo_label_writer import PseudoLabelWriter

__all__ = [
    "InstanceMaskEvaluator",
    "MultiLabelEvaluator",
    "PseudoLabelWriter",
    "evaluate_coco",
    "evaluate_instance_masks",
    "evaluate_mask_files",
    "flatten_instance_metrics",
    "format_instance_metrics",
    "load_coco_detections",
    "load_coco_ground_truths",
    "multilabel_average_precision",
    "read_coco_json",
    "read_json",
    "to_rle",
]
