"""Evaluators for Detectron2's inference loop, and the plain functions under them."""

from .classification import MultiLabelEvaluator, multilabel_average_precision
from .coco_format import load_coco_detections, load_coco_ground_truths, read_coco_json
from .counting import CountEvaluator, count_errors
from .instance_ap import evaluate_instance_masks
from .instance_evaluator import InstanceMaskEvaluator
from .label_maps import (
    confusion_matrix,
    evaluate_label_maps,
    label_ious,
    mean_iou,
    seed_metrics,
    threshold_confusion_matrices,
)
from .label_noise import count_label_noise
from .label_shards import LabelShards, read_shard_header, shard_file, shard_header
from .mask_files import evaluate_coco, evaluate_mask_files
from .metrics_table import flatten_instance_metrics, format_instance_metrics
from .patient import PatientEvaluators
from .proposal_quality import evaluate_proposals, format_proposal_metrics
from .pseudo_label_file import PseudoLabelFile
from .pseudo_label_writer import (
    LocatedBoxWriter,
    PseudoLabelWriter,
    ShardBoxWriter,
    ShardLabelWriter,
)
from .reliability import reliability_curve
from .reviewed_labels import apply_review
from .sem_seg_writer import SemSegLabelWriter
from .stronger_labels import count_stronger_labels

__all__ = [
    "CountEvaluator",
    "InstanceMaskEvaluator",
    "LabelShards",
    "LocatedBoxWriter",
    "MultiLabelEvaluator",
    "PatientEvaluators",
    "PseudoLabelFile",
    "PseudoLabelWriter",
    "SemSegLabelWriter",
    "ShardBoxWriter",
    "ShardLabelWriter",
    "apply_review",
    "confusion_matrix",
    "count_errors",
    "count_label_noise",
    "count_stronger_labels",
    "evaluate_coco",
    "evaluate_instance_masks",
    "evaluate_label_maps",
    "evaluate_mask_files",
    "evaluate_proposals",
    "flatten_instance_metrics",
    "format_instance_metrics",
    "format_proposal_metrics",
    "label_ious",
    "load_coco_detections",
    "load_coco_ground_truths",
    "mean_iou",
    "multilabel_average_precision",
    "read_coco_json",
    "read_shard_header",
    "reliability_curve",
    "seed_metrics",
    "shard_file",
    "shard_header",
    "threshold_confusion_matrices",
]
