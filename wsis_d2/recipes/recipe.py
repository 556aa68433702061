"""Recipes: the stages of a method, in the order in which they run.

A recipe is a YAML file::

    title: WISE on Shapes
    stages:
      - name: classifier            # its folder under the output folder
        run: train                  # train | cams | seeds | proposals | pseudo_labels | combine |
                                    # report
        config: classifier.yaml     # beside the recipe
      - name: pseudo_labels
        run: pseudo_labels
        config: pseudo_labels.yaml
        options: {MODEL.WEIGHTS: "{classifier}/model_final.pth"}   # {name}: that stage's folder

A recipe may also say only how it differs from another (:mod:`wsis_d2.recipes.recipe_file`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace

from detectron2.config import CfgNode

from ..engine.setup import configured_device, load_config, merged_config
from ..engine.stages import STAGE_KINDS
from ..errors import UserError
from .recipe_file import read_recipe_file


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe; see the module's docstring."""

    name: str
    run: str
    config: str = ""
    options: dict = field(default_factory=dict)
    #: Stages whose results this one reads, beside those that ``options`` name; in a recipe file
    #: a report reads all earlier ones where it does not say.
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A method's stages in the order in which they run."""

    title: str
    stages: tuple[Stage, ...]
    folder: str


def load_recipe(path: str) -> Recipe:
    """Read a recipe file; see :mod:`wsis_d2.recipes.recipe_file` for what it may take over.

    Raises:
        UserError: missing file, not YAML, unknown kind of stage, or a stage that names a later one.
    """
    try:
        data = read_recipe_file(path)
        stages = _build_stages(data["stages"])
        recipe = Recipe(data["title"], stages, os.path.dirname(os.path.abspath(path)))
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"recipe {path} is not a recipe ({error}): it needs a title and stages with name, run "
            "and config"
        ) from error
    known: set[str] = set()
    for stage in stages:
        if stage.run not in STAGE_KINDS:
            raise UserError(
                f"stage '{stage.name}' of recipe {path} runs '{stage.run}': choose one of "
                f"{', '.join(STAGE_KINDS)}"
            )
        unknown = set(references(stage)) - known
        if unknown:
            raise UserError(
                f"stage '{stage.name}' of recipe {path} needs {', '.join(sorted(unknown))}, which "
                "is no earlier stage"
            )
        known.add(stage.name)
    return recipe


def _build_stages(data: list[dict]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for keys in data:
        # A report shows what came before it.
        inputs = [s.name for s in stages] if keys.get("run") == "report" else []
        stages.append(Stage(**{**keys, "inputs": tuple(keys.get("inputs", inputs))}))
    return tuple(stages)


def references(stage: Stage) -> list[str]:
    """Names of the other stages whose folders or results the stage reads."""
    named = re.findall(r"\{([\w-]+)\}", " ".join(str(v) for v in stage.options.values()))
    return sorted({*named, *stage.inputs} - {stage.name})


def stage_config(recipe: Recipe, stage: Stage, output: str, opts: list[str]) -> CfgNode:
    """The stage's config: its file, the recipe's options for it, then the command line's."""
    cfg = load_config(*_config_arguments(recipe, stage, output, opts))
    cfg.OUTPUT_DIR = os.path.join(output, stage.name)
    return cfg


def written_config(recipe: Recipe, stage: Stage, output: str, opts: list[str]) -> CfgNode:
    """The stage's config before anything is looked up in datasets, which may not exist yet."""
    return merged_config(*_config_arguments(recipe, stage, output, opts))


def stage_device(recipe: Recipe, stage: Stage, output: str, opts: list[str]) -> str:
    """The device of the stage's config, whether or not this machine has it."""
    return configured_device(*_config_arguments(recipe, stage, output, opts))


def _config_arguments(
    recipe: Recipe, stage: Stage, output: str, opts: list[str]
) -> tuple[str, list[str]]:
    """The stage's config file and all options for it."""
    folders = {s.name: os.path.join(output, s.name) for s in recipe.stages}
    options = []
    for key, value in stage.options.items():
        options += [key, value.format(**folders) if isinstance(value, str) else value]
    config_file = os.path.join(recipe.folder, stage.config) if stage.config else ""
    return config_file, [*options, *_options_for(recipe, stage, opts)]


def _options_for(recipe: Recipe, stage: Stage, opts: list[str]) -> list[str]:
    """The command line's options for one stage: ``KEY VALUE`` is for all, ``stage:KEY VALUE`` one.

    Raises:
        UserError: an option is for a stage that the recipe does not have, or lacks its value.
    """
    if len(opts) % 2:
        raise UserError(f"KEY VALUE options come in pairs, got {' '.join(map(str, opts))!r}")
    selected = []
    names = [s.name for s in recipe.stages]
    for key, value in zip(opts[::2], opts[1::2]):
        name, colon, stage_key = key.partition(":")
        if colon and name not in names:
            raise UserError(
                f"option {key} is for stage '{name}', but the stages are {', '.join(names)}"
            )
        if not colon:
            selected += [key, value]
        elif name == stage.name:
            selected += [stage_key, value]
    return selected


def check_configs(recipe: Recipe, output: str, opts: list[str]) -> None:
    """A mistake in the last stage's must not show up after days."""
    for stage in recipe.stages:
        try:
            written_config(recipe, stage, output, opts)
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from error


def up_to(recipe: Recipe, last_stage: str) -> Recipe:
    """The recipe up to a stage."""
    if not last_stage:
        return recipe
    names = [stage.name for stage in recipe.stages]
    if last_stage not in names:
        raise UserError(
            f"there is no stage '{last_stage}' to end with: choose one of {', '.join(names)}"
        )
    return replace(recipe, stages=recipe.stages[: names.index(last_stage) + 1])
