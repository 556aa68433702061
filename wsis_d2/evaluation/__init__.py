"""Evaluators for Detectron2's inference loop, and the plain functions under them."""

from .classification import MultiLabelEvaluator, multilabel_average_precision
from .coco_format import (
    check_writable,
    load_coco_detections,
    load_coco_ground_truths,
    read_coco_json,
    read_json,
    to_rle,
    write_json,
)
from .instance_ap import evaluate_instance_masks
from .instance_evaluator import InstanceMaskEvaluator
from .mask_files import evaluate_coco, evaluate_mask_files
from .metrics_table import flatten_instance_metrics, format_instance_metrics, to_json_value
from .pseudo_label_writer import PseudoLabelWriter

__all__ = [
    "InstanceMaskEvaluator",
    "MultiLabelEvaluator",
    "PseudoLabelWriter",
    "check_writable",
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
    "to_json_value",
    "to_rle",
    "write_json",
]
