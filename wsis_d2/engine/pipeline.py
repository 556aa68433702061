"""Recipes: the stages of a method, run in order, each skipped when nothing it depends on changed.

A recipe is a YAML file::

    title: WISE on Shapes
    stages:
      - name: classifier            # its folder under the output folder
        run: train                  # train | cams | seeds | proposals | pseudo_labels | report
        config: classifier.yaml     # beside the recipe
      - name: pseudo_labels
        run: pseudo_labels
        config: pseudo_labels.yaml
        options: {MODEL.WEIGHTS: "{classifier}/model_final.pth"}   # {name}: that stage's folder

A recipe may also say only how it differs from another (:mod:`wsis_d2.engine.recipe_file`).

Each stage runs in a fresh process (or ``num_gpus`` of them), so that it gives what its tool alone
would give.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import UserError
from ..files import check_writable_folder, folder_size, read_json, write_json
from ..first_machine import FirstMachine, signs_of_life
from ..folder_lock import lock_folder
from ..parallel import synchronize_patiently
from .launch import check_job_size, free_address, launch, run_in_fresh_process
from .recipe_file import read_recipe_file
from .setup import configured_device, load_config, merged_config, setup
from .stages import RECIPE_FILE, STAGE_KINDS
from .stages.changes import why_stage_runs
from .stages.files import STAGE_FILE, StageState, outputs_exist, stage_state, write_outputs


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
    """Read a recipe file; see :mod:`wsis_d2.engine.recipe_file` for what it may take over.

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
        unknown = set(_references(stage)) - known
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


def _references(stage: Stage) -> list[str]:
    """Names of the other stages whose folders or results the stage reads."""
    named = re.findall(r"\{([\w-]+)\}", " ".join(str(v) for v in stage.options.values()))
    return sorted({*named, *stage.inputs} - {stage.name})


def stage_config(recipe: Recipe, stage: Stage, output: str, opts: list[str]) -> CfgNode:
    """The stage's config: its file, the recipe's options for it, then the command line's."""
    cfg = load_config(*_config_arguments(recipe, stage, output, opts))
    cfg.OUTPUT_DIR = os.path.join(output, stage.name)
    return cfg


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


def run_recipe(
    recipe_file: str,
    output: str,
    *,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    resume: bool = False,
    opts: list[Any] | None = None,
    last_stage: str = "",
) -> dict:
    """Run all stages of a recipe.

    Args:
        recipe_file: the YAML file.
        output: folder of the results: one folder per stage, ``metrics.json``, ``report.html``.
        num_gpus: GPUs (or CPU processes) per machine for the stages that train or infer.
        num_machines: as in :func:`wsis_d2.engine.launch.launch`.
        machine_rank: likewise; ``output`` must then be on a file system that all machines share.
        dist_url: likewise.
        resume: a stage that was killed goes on where it was; without it that stage starts afresh.
            Stages that are complete and unchanged are skipped in either case.
        opts: ``KEY VALUE`` pairs on top of the config of every stage, ``stage:KEY VALUE`` of one.
        last_stage: name of the stage to end with; empty: the recipe's last.

    Returns:
        What ``metrics.json`` holds: ``{stage: {"seconds": ..., "metrics": {...}}}``.
    """
    check_job_size(num_gpus, num_machines, machine_rank)
    recipe = _cut(load_recipe(recipe_file), last_stage)
    output, opts = os.path.abspath(output), list(opts or [])
    _check_configs(recipe, output, opts)
    check_writable_folder(output)
    under_torchrun = dist.is_torchelastic_launched()
    if machine_rank == 0 and (not under_torchrun or os.environ["RANK"] == "0"):
        lock_folder(output)
        # What the report must know of the recipe.
        stages = [{"name": stage.name, "run": stage.run} for stage in recipe.stages]
        write_json(os.path.join(output, RECIPE_FILE), {"title": recipe.title, "stages": stages})
    if under_torchrun:
        # torchrun's processes stay together; those without work wait for a stage to end.
        launch(
            _run_stages,
            num_gpus,
            args=(recipe, output, opts, resume, _run_in_group),
            device=_group_device(recipe, output, opts),
        )
    else:
        dist_url = free_address(dist_url, num_machines)
        processes = (num_gpus, num_machines, machine_rank, dist_url)
        run = functools.partial(_run_in_new_processes, processes)
        signs = signs_of_life(output) if num_machines > 1 and machine_rank == 0 else nullcontext()
        with signs:
            _run_stages(recipe, output, opts, resume, run, machine_rank == 0)
    return read_json(os.path.join(output, "metrics.json"))


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
    _check_configs(recipe, output, opts)
    plan: list[PlannedStage] = []
    fingerprints: dict[str, str] = {}
    for stage in recipe.stages:
        folder = os.path.join(output, stage.name)
        runs = {planned.name for planned in plan if planned.why}
        read = [name for name in _references(stage) if name in runs]
        if read:
            why = f"after {', '.join(read)}"
        else:
            cfg = stage_config(recipe, stage, output, opts)
            state = stage_state(cfg, stage.run, _references(stage), output, fingerprints)
            fingerprints[stage.name] = state.fingerprint
            why = why_stage_runs(cfg, stage.run, state)
        seconds = read_json(os.path.join(folder, STAGE_FILE)).get("seconds")
        plan.append(PlannedStage(stage.name, why, seconds, folder_size(folder)))
    return plan


def _check_configs(recipe: Recipe, output: str, opts: list[str]) -> None:
    """A mistake in the last stage's must not show up after days."""
    for stage in recipe.stages:
        try:
            merged_config(*_config_arguments(recipe, stage, output, opts))
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from error


def _cut(recipe: Recipe, last_stage: str) -> Recipe:
    """The recipe up to a stage."""
    if not last_stage:
        return recipe
    names = [stage.name for stage in recipe.stages]
    if last_stage not in names:
        raise UserError(
            f"there is no stage '{last_stage}' to end with: choose one of {', '.join(names)}"
        )
    return replace(recipe, stages=recipe.stages[: names.index(last_stage) + 1])


def _group_device(recipe: Recipe, output: str, opts: list[str]) -> str:
    """The device of processes that run all stages: the CPU only if no stage wants another."""
    shared = [stage for stage in recipe.stages if STAGE_KINDS[stage.run].on_all_gpus]
    devices = {stage_device(recipe, stage, output, opts) for stage in shared}
    return min(devices - {"cpu"}, default="cpu")


def _run_stages(
    recipe: Recipe,
    output: str,
    opts: list[str],
    resume: bool,
    run: Callable[[Stage, tuple], None],
    main_machine: bool = True,
) -> None:
    """Run what is missing or has changed, by ``run(stage, arguments of _run_stage)``."""
    speaks = main_machine and comm.is_main_process()
    start = time.perf_counter()
    results: dict[str, dict] = {}
    fingerprints: dict[str, str] = {}
    for number, stage in enumerate(recipe.stages, 1):
        title = f"[{number}/{len(recipe.stages)}] {stage.name}"
        cfg = stage_config(recipe, stage, output, opts)
        state = stage_state(cfg, stage.run, _references(stage), output, fingerprints)
        fingerprints[stage.name] = state.fingerprint
        result = _read_result(cfg.OUTPUT_DIR, state.fingerprint)
        if result:
            _say(f"{title}: unchanged, skipped", speaks)
        else:
            _say(f"{title}: running ({cfg.OUTPUT_DIR}/log.txt)", speaks)
            run(stage, (recipe, stage, output, opts, resume, state))
            result = _read_result(cfg.OUTPUT_DIR, state.fingerprint)
            _say(f"{title}: done in {_duration(result.get('seconds', 0))}", speaks)
        results[stage.name] = {k: result[k] for k in ("seconds", "metrics") if k in result}
        if speaks:
            write_json(os.path.join(output, "metrics.json"), results, indent=2)
    _say(f"{recipe.title}: {_duration(time.perf_counter() - start)} in all", speaks)


def _run_in_new_processes(
    processes: tuple[int, int, int, str | None], stage: Stage, args: tuple
) -> None:
    num_gpus, num_machines, machine_rank, dist_url = processes
    if not STAGE_KINDS[stage.run].on_all_gpus:
        if machine_rank == 0:
            run_in_fresh_process(_run_stage, args)
        else:
            _wait_for_first_machine(*args)
    elif num_gpus * num_machines > 1:
        device = stage_device(*args[:4])
        launch(_run_stage, num_gpus, num_machines, machine_rank, dist_url, args, device=device)
    else:
        run_in_fresh_process(_run_stage, args)


def _wait_for_first_machine(
    _recipe: Recipe, stage: Stage, output: str, _opts: list[str], _resume: bool, state: StageState
) -> None:
    folder = os.path.join(output, stage.name)
    FirstMachine(output).wait_for(
        lambda: bool(_read_result(folder, state.fingerprint)), f"stage '{stage.name}'"
    )


def _run_in_group(stage: Stage, args: tuple) -> None:
    if STAGE_KINDS[stage.run].on_all_gpus:
        _run_stage(*args)
    elif comm.is_main_process():
        run_in_fresh_process(_run_stage, args)
    synchronize_patiently()


def _say(text: str, speaks: bool) -> None:
    if speaks:
        print(text, flush=True)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _run_stage(
    recipe: Recipe, stage: Stage, output: str, opts: list[str], resume: bool, state: StageState
) -> None:
    """One stage, in a process of its own."""
    cfg = stage_config(recipe, stage, output, opts)
    cfg.freeze()
    setup(cfg, verbose=False)
    # A checkpoint or label file of other settings must not be taken up.
    begun = os.path.join(cfg.OUTPUT_DIR, "begun.json")
    resume = resume and read_json(begun).get("fingerprint") == state.fingerprint
    comm.synchronize()  # all have read it
    if comm.is_main_process():
        write_json(begun, {"fingerprint": state.fingerprint})
    start = time.perf_counter()
    metrics = STAGE_KINDS[stage.run].run(cfg, resume=resume)
    if comm.is_main_process():
        result = {
            **asdict(state),
            "seconds": round(time.perf_counter() - start, 1),
            "metrics": metrics,
        }
        write_outputs(cfg, stage.run, output)
        write_json(os.path.join(cfg.OUTPUT_DIR, STAGE_FILE), result, indent=2)


def _read_result(folder: str, fingerprint: str) -> dict:
    """What the stage's file says, {} where it is of another state or an output is gone."""
    result = read_json(os.path.join(folder, STAGE_FILE))
    if result.get("fingerprint") == fingerprint and outputs_exist(folder):
        return result
    return {}
