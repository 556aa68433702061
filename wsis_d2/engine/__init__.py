"""Trainer, stages and launch."""

from ..weights.checkpoint import WSISCheckpointer
from ..weights.pretrained import PixelStatistics, check_pixel_statistics, pretrained_pixel_stats
from ..weights.published import convert_checkpoint
from .cli import run_tool
from .hooks import MeanDisplacement
from .launch import launch, launch_from_args, run_in_fresh_process
from .lazy import evaluate_lazy, lazy_device, load_lazy_config, setup_lazy, train_lazy
from .setup import load_config, setup
from .solver import build_lr_scheduler, build_optimizer, get_optimizer_params, one_cycle
from .stages import (
    combine_labels,
    evaluate,
    load_label_generator,
    load_multi_scale_cam,
    make_cams,
    make_contours,
    make_proposals,
    make_pseudo_labels,
    make_report,
    make_seeds,
    merge_pseudo_labels,
    train,
)
from .trainer import Trainer

__all__ = [
    "MeanDisplacement",
    "PixelStatistics",
    "Trainer",
    "WSISCheckpointer",
    "build_lr_scheduler",
    "build_optimizer",
    "check_pixel_statistics",
    "combine_labels",
    "convert_checkpoint",
    "evaluate",
    "evaluate_lazy",
    "get_optimizer_params",
    "launch",
    "launch_from_args",
    "lazy_device",
    "load_config",
    "load_label_generator",
    "load_lazy_config",
    "load_multi_scale_cam",
    "make_cams",
    "make_contours",
    "make_proposals",
    "make_pseudo_labels",
    "make_report",
    "make_seeds",
    "merge_pseudo_labels",
    "one_cycle",
    "pretrained_pixel_stats",
    "run_in_fresh_process",
    "run_tool",
    "setup",
    "setup_lazy",
    "train",
    "train_lazy",
]
