"""Recipe files as they are written: YAML, in which a recipe may say only how it differs.

A recipe with a ``_BASE_`` takes over that recipe's title and stages, and changes these by name::

    _BASE_: ../../recipes/irnet.yaml   # relative to this file; it may have a _BASE_ of its own
    title: IRNet on my images
    stages:
      mask_rcnn:                       # keys are replaced, options one by one
        config: ../mask_rcnn_R_101_FPN.yaml
        options: {SOLVER.MAX_ITER: 9000}
      sem_seg:                         # a new stage says where it goes
        after: pseudo_labels
        run: train
        config: ../sem_seg_R_50_FPN.yaml
      report: null                     # is left out

Configs are looked up beside the recipe that is run, also those that a base names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from string import Formatter
from typing import Any

from ..errors import UserError
from ..files import parse_yaml

KEYS = ("_BASE_", "title", "stages")
STAGE_KEYS = ("name", "run", "config", "options", "inputs")

# A stage's name is that of its folder, and stands between braces in options.
_NAME = re.compile(r"[\w-]+")


def read_recipe_file(path: str) -> dict:
    """Read a recipe with all that it takes over from its bases.

    Args:
        path: the YAML file.

    Returns:
        What a file without ``_BASE_`` would hold: the title and the list of stages, whose values
        have the right types. What kinds of stages there are is not known here.

    Raises:
        UserError: a file is missing, is not YAML or no recipe, is its own base, or changes what
            its base does not have.
    """
    data = _read(path, ())
    try:
        _check(data)
    except ValueError as error:
        raise UserError(f"recipe {path} is not a recipe: {error}") from None
    return data


def _check(data: dict) -> None:
    """Raise a ValueError, the end of a sentence, where a value is not what it must be."""
    title, stages = data.get("title"), data.get("stages")
    if not isinstance(title, str) or not title.strip().isprintable():
        raise ValueError("it needs a title, one line of text, and stages with name, run and config")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("it needs stages, a list of such with name, run and config")
    names = []
    for stage in stages:
        name = stage.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in names:
            raise ValueError(
                f"the name of stage {len(names) + 1} is {name!r}, but it must be one of its own, "
                "of letters, digits, _ and -"
            )
        names.append(name)
        try:
            _check_stage(stage)
        except ValueError as error:
            raise ValueError(f"stage '{name}' {error}") from None


def _check_stage(stage: dict) -> None:
    unknown = [repr(key) for key in stage if key not in STAGE_KEYS]
    if unknown:
        raise ValueError(f"has {', '.join(unknown)}, but it takes {', '.join(STAGE_KEYS)}")
    for key in ("run", "config"):
        if not isinstance(stage.get(key, ""), str) or not stage.get(key, "").isprintable():
            raise ValueError(f"has the {key} {stage[key]!r}, which is no name")
    inputs = stage.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise ValueError("must have a list of names as inputs")
    options = stage.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError("must have options like '{SOLVER.MAX_ITER: 90}'")
    for key, value in options.items():
        if isinstance(value, str) and not _has_plain_fields(value):
            raise ValueError(
                f"has the option {key} {value!r}, in which braces must hold a stage's name (or be "
                "doubled)"
            )


def _has_plain_fields(text: str) -> bool:
    """Whether ``str.format`` puts nothing but whole values in: no widths, attributes, indices."""
    try:
        fields = list(Formatter().parse(text))
    except ValueError:
        return False
    return all(
        name is None or (_NAME.fullmatch(name) and not form and not conversion)
        for _, name, form, conversion in fields
    )


def _read(path: str, heirs: tuple[str, ...]) -> dict:
    """Read a recipe that ``heirs``, the one that is run first, are based on."""
    if any(os.path.realpath(path) == os.path.realpath(heir) for heir in heirs):
        raise UserError(
            f"recipe {path} is its own base ({' -> '.join((*heirs, path))}): correct a _BASE_"
        )
    data = _read_yaml(path, f"the _BASE_ of {heirs[-1]}" if heirs else "--recipe")
    if not isinstance(data, dict):
        raise _not_a_recipe(path)
    if "_BASE_" not in data:
        return data
    unknown = [str(key) for key in data if key not in KEYS]
    if unknown:
        raise UserError(f"recipe {path} has {', '.join(unknown)}: it takes {', '.join(KEYS)}")
    if not isinstance(data["_BASE_"], str) or not data["_BASE_"].isprintable():
        raise UserError(f"_BASE_ of recipe {path} is {data['_BASE_']!r}: name one recipe file")
    base_path = os.path.normpath(os.path.join(os.path.dirname(path), data["_BASE_"]))
    base = _read(base_path, (*heirs, path))
    if not _has_named_stages(base):
        raise _not_a_recipe(base_path)
    stages = _change_stages(base["stages"], data.get("stages") or {}, path)
    return {**base, **data, "stages": stages}


def _read_yaml(path: str, named_by: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"recipe {path} does not exist: check {named_by}") from error
    except (OSError, ValueError) as error:  # not UTF-8, or a path that is none
        raise UserError(f"recipe {path} cannot be read ({error}): check {named_by}") from error
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"recipe {path} is not valid YAML: {error}") from error


def _not_a_recipe(path: str) -> UserError:
    return UserError(
        f"recipe {path} is not a recipe: it needs a title and stages with name, run and config"
    )


def _has_named_stages(data: dict) -> bool:
    stages = data.get("stages")
    return isinstance(stages, list) and all(isinstance(s, dict) and "name" in s for s in stages)


def _change_stages(stages: list[dict], changes: Any, path: str) -> list[dict]:
    """The stages of a base with what the recipe at ``path`` says of them."""
    if not isinstance(changes, dict):
        raise UserError(
            f"stages of recipe {path}, which has a _BASE_, must be changes by name: write them as "
            "in 'mask_rcnn: {config: mine.yaml}'"
        )
    stages = list(stages)
    for name, change in changes.items():
        names = [stage["name"] for stage in stages]
        if change is not None and not isinstance(change, dict):
            raise UserError(
                f"stage '{name}' of recipe {path} is {change!r}: give it keys, as in "
                "'{config: mine.yaml}', or null to leave it out"
            )
        if name in names and change is None:
            del stages[names.index(name)]
        elif name in names:
            stages[names.index(name)] = _merge(stages[names.index(name)], change)
        elif change and change.get("after") in names:
            stage = {"name": name, **change}
            stages.insert(names.index(stage.pop("after")) + 1, stage)
        else:
            raise UserError(
                f"recipe {path} changes stage '{name}', but its _BASE_ has {', '.join(names)}: "
                "correct the name, or say 'after: STAGE', one of these, for a new stage"
            )
    return stages


def _merge(stage: dict, change: dict) -> dict:
    merged = {**stage, **change}
    if "options" in stage and "options" in change:
        merged["options"] = {**stage["options"], **change["options"]}
    return merged
