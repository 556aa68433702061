"""What a run of a recipe would do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..engine.stages.files import STAGE_FILE, stage_state
from ..engine.stages.image_hashes import IMAGE_HASHES_FILE, ImageHashes
from ..files import folder_size, read_json
from .changes import why_stage_runs
from .recipe import check_configs, load_recipe, references, stage_config


@dataclass(frozen=True)
class PlannedStage:
    """What a recipe would do with a stage, and what is known of its last run.

    Attributes:
        name: the stage's.
        why: the reason for which it would run, "" where it would be skipped.
        seconds: how long it took, None where it never ended.
        size: bytes in its folder.
    """

    name: str
    why: str
    seconds: float | None
    size: int


def plan_recipe(recipe_file: str, output: str, opts: list[str] | None = None) -> list[PlannedStage]:
    """Say what :func:`run_recipe` would do; nothing is run or written.

    Args:
        recipe_file: see :func:`run_recipe`.
        output: likewise; it need not exist.
        opts: likewise.

    Returns:
        All stages in their order. One that reads another that would run counts as run too.
    """
    recipe, output, opts = load_recipe(recipe_file), os.path.abspath(output), list(opts or [])
    check_configs(recipe, output, opts)
    plan: list[PlannedStage] = []
    fingerprints: dict[str, str] = {}
    hashes = ImageHashes(os.path.join(output, IMAGE_HASHES_FILE))
    for stage in recipe.stages:
        folder = os.path.join(output, stage.name)
        runs = {planned.name for planned in plan if planned.why}
        read = [name for name in references(stage) if name in runs]
        if read:
            why = f"after {', '.join(read)}"
        else:
            cfg = stage_config(recipe, stage, output, opts)
            state = stage_state(cfg, stage.run, references(stage), output, fingerprints, hashes)
            fingerprints[stage.name] = state.fingerprint
            why = why_stage_runs(cfg, stage.run, state)
        seconds = read_json(os.path.join(folder, STAGE_FILE)).get("seconds")
        plan.append(PlannedStage(stage.name, why, seconds, folder_size(folder)))
    return plan
