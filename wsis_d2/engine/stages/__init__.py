"""What a recipe's stages run: one function each, ``run(cfg, resume=False)``, and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cams import load_multi_scale_cam, make_cams
from .combine import combine_labels
from .contours import make_contours
from .proposals import make_proposals
from .pseudo_labels import load_label_generator, make_pseudo_labels, merge_pseudo_labels
from .report import RECIPE_FILE, make_recipe_report, make_report
from .seeds import make_seeds
from .train import evaluate, train

__all__ = [
    "RECIPE_FILE",
    "STAGE_KINDS",
    "StageKind",
    "combine_labels",
    "evaluate",
    "load_label_generator",
    "load_multi_scale_cam",
    "make_cams",
    "make_contours",
    "make_proposals",
    "make_pseudo_labels",
    "make_recipe_report",
    "make_report",
    "make_seeds",
    "merge_pseudo_labels",
    "train",
]


@dataclass(frozen=True)
class StageKind:
    """A kind of stage.

    Attributes:
        run: called with the stage's config and, as ``resume``, whether to go on after a kill;
            returns the metrics, {} in other processes than the main one. What it makes lies in
            ``OUTPUT_DIR`` or where the config says.
        on_all_gpus: whether it runs on all GPUs and machines, instead of one process of the first.
    """

    run: Callable[..., dict]
    on_all_gpus: bool = False


#: By their name in a recipe.
STAGE_KINDS = {
    "train": StageKind(train, on_all_gpus=True),
    "cams": StageKind(make_cams, on_all_gpus=True),
    "seeds": StageKind(make_seeds),
    "contours": StageKind(make_contours, on_all_gpus=True),
    "proposals": StageKind(make_proposals),
    "pseudo_labels": StageKind(make_pseudo_labels, on_all_gpus=True),
    "combine": StageKind(combine_labels),
    "report": StageKind(make_recipe_report),
}
