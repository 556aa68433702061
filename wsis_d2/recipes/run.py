"""Run the stages of a recipe, each skipped when nothing it depends on changed.

Each stage runs in a fresh process (or ``num_gpus`` of them), so that it gives what its tool alone
would give.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from ..engine.launch import check_job_size, free_address, launch, run_in_fresh_process
from ..engine.setup import setup
from ..engine.stages import RECIPE_FILE, STAGE_KINDS
from ..engine.stages.files import (
    STAGE_FILE,
    StageState,
    outputs_exist,
    stage_state,
    write_outputs,
)
from ..engine.stages.image_hashes import IMAGE_HASHES_FILE, ImageHashes
from ..files import check_writable_folder, read_json, write_json
from ..first_machine import FirstMachine, signs_of_life
from ..folder_lock import lock_folder
from ..parallel import synchronize_patiently
from .changes import why_stage_runs
from .recipe import (
    Recipe,
    Stage,
    check_configs,
    load_recipe,
    references,
    stage_config,
    stage_device,
    up_to,
)


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
    recipe = up_to(load_recipe(recipe_file), last_stage)
    output, opts = os.path.abspath(output), list(opts or [])
    check_configs(recipe, output, opts)
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
    hashes = ImageHashes(os.path.join(output, IMAGE_HASHES_FILE))
    for number, stage in enumerate(recipe.stages, 1):
        title = f"[{number}/{len(recipe.stages)}] {stage.name}"
        cfg = stage_config(recipe, stage, output, opts)
        state = stage_state(cfg, stage.run, references(stage), output, fingerprints, hashes)
        fingerprints[stage.name] = state.fingerprint
        if speaks:
            hashes.save()
        result = _read_result(cfg.OUTPUT_DIR, state.fingerprint)
        if result:
            _say(f"{title}: unchanged, skipped", speaks)
        else:
            why = why_stage_runs(cfg, stage.run, state)
            _say(f"{title}: running ({why}), see {cfg.OUTPUT_DIR}/log.txt", speaks)
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
