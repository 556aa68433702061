"""A recipe's next round, whose second stage heeds a review of the pseudo masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..data import read_review
from ..errors import UserError
from .recipe import load_recipe, written_config


def review_options(
    recipe_file: str, output: str, review: str | os.PathLike, opts: Sequence[Any] = ()
) -> list[Any]:
    """The option by which :func:`run_recipe` heeds a review.

    It is for the last stage that learns from pseudo masks, which is the one that the report shows.
    That stage and what comes after it are run again when the review changes, nothing before it.

    Args:
        recipe_file: see :func:`run_recipe`.
        output: likewise.
        review: the file, see :mod:`wsis_d2.data.review`.
        opts: the other options.

    Returns:
        ``[key, value]``, to be added to ``opts``.

    Raises:
        UserError: the review is missing or none, or no stage learns from masks.
    """
    read_review(review)  # a mistake must not show up after hours
    recipe, opts = load_recipe(recipe_file), list(opts)
    stages = [
        stage.name
        for stage in recipe.stages
        if stage.run == "train"
        and _learns_from_masks(written_config(recipe, stage, os.path.abspath(output), opts))
    ]
    if not stages:
        raise UserError(
            f"no stage of recipe {recipe_file} learns from pseudo masks, so that none can heed the "
            f"review '{review}': run it without"
        )
    return [f"{stages[-1]}:DATASETS.PSEUDO.REVIEW", os.path.abspath(review)]


def _learns_from_masks(cfg: CfgNode) -> bool:
    pseudo = cfg.DATASETS.PSEUDO
    return bool(pseudo.JSON) and pseudo.NAME in cfg.DATASETS.TRAIN
