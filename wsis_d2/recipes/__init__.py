"""Recipes: all stages of a method, from image labels to a trained network and a report."""

from .own_images import PseudoLabels, pseudo_label
from .plan import PlannedStage, plan_recipe
from .recipe import Recipe, Stage, load_recipe, stage_config
from .review_options import review_options
from .run import run_recipe

__all__ = [
    "PlannedStage",
    "PseudoLabels",
    "Recipe",
    "Stage",
    "load_recipe",
    "plan_recipe",
    "pseudo_label",
    "review_options",
    "run_recipe",
    "stage_config",
]
