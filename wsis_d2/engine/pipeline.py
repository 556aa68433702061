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

Each stage runs in a fresh process (or ``num_gpus`` of them), so that it gives what its tool alone
would give.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from .. import __version__
from ..errors import UserError
from ..files import check_writable_folder, read_json, write_json
from ..images import unreadable_image
from ..parallel import synchronize_patiently
from .cams import make_cams
from .first_machine import FirstMachine, signs_of_life
from .launch import launch, run_in_fresh_process
from .proposals import make_proposals
from .pseudo_labels import make_pseudo_labels
from .report import make_report
from .seeds import make_seeds
from .setup import load_config, setup
from .stage_files import (
    PSEUDO_LABEL_FILE,
    REPORT_FILE,
    UNDECIDING_KEYS,
    UNDECIDING_SECTIONS,
    digest_path,
    outputs_exist,
    outside_inputs,
    read_outputs,
    write_outputs,
)
from .train import train
from .trainer import dataset_dicts

#: Written into a stage's folder when it is complete.
STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe; see the module's docstring."""

    name: str
    run: str
    config: str = ""
    options: dict = field(default_factory=dict)
    #: Stages whose results this one reads, beside those that ``options`` name.
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A method's stages in the order in which they run."""

    title: str
    stages: tuple[Stage, ...]
    folder: str


def load_recipe(path: str) -> Recipe:
    """Read a recipe file.

    Raises:
        UserError: Missing file, not YAML, unknown kind of stage, or a stage that names a later one.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"recipe {path} does not exist: check --recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read ({error}): check --recipe") from error
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is not valid YAML: {error}") from error
    try:
        stages = tuple(
            Stage(**{**stage, "inputs": tuple(stage.get("inputs", ()))}) for stage in data["stages"]
        )
        recipe = Recipe(data["title"], stages, os.path.dirname(os.path.abspath(path)))
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"recipe {path} is not a recipe ({error}): it needs a title and stages with name, run "
            "and config"
        ) from error
    known: set[str] = set()
    for stage in stages:
        if stage.run not in RUNNERS:
            raise UserError(
                f"stage '{stage.name}' of recipe {path} runs '{stage.run}': choose one of "
                f"{', '.join(RUNNERS)}"
            )
        unknown = set(_references(stage)) - known
        if unknown:
            raise UserError(
                f"stage '{stage.name}' of recipe {path} needs {', '.join(sorted(unknown))}, which "
                "is no earlier stage"
            )
        known.add(stage.name)
    return recipe


def _references(stage: Stage) -> list[str]:
    """Names of the other stages whose folders or results the stage reads."""
    named = re.findall(r"\{(\w+)\}", " ".join(str(v) for v in stage.options.values()))
    return sorted({*named, *stage.inputs} - {stage.name})


def stage_config(recipe: Recipe, stage: Stage, output: str, opts: list[str]) -> CfgNode:
    """The stage's config: its file, the recipe's options for it, then the command line's."""
    folders = {s.name: os.path.join(output, s.name) for s in recipe.stages}
    options = []
    for key, value in stage.options.items():
        options += [key, value.format(**folders) if isinstance(value, str) else value]
    config_file = os.path.join(recipe.folder, stage.config) if stage.config else ""
    cfg = load_config(config_file, [*options, *_options_for(recipe, stage, opts)])
    cfg.OUTPUT_DIR = folders[stage.name]
    return cfg


def _options_for(recipe: Recipe, stage: Stage, opts: list[str]) -> list[str]:
    """The command line's options for one stage: ``KEY VALUE`` is for all, ``stage:KEY VALUE`` one.

    Raises:
        UserError: An option is for a stage that the recipe does not have, or lacks its value.
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
    opts: list[str] | None = None,
) -> dict:
    """Run all stages of a recipe.

    Args:
        recipe_file: The YAML file.
        output: Folder of the results: one folder per stage, ``metrics.json``, ``report.html``.
        num_gpus: GPUs (or CPU processes) per machine for the stages that train or infer.
        num_machines: As in :func:`wsis_d2.engine.launch.launch`.
        machine_rank: Likewise; ``output`` must then be on a file system that all machines share.
        dist_url: Likewise.
        resume: A stage that was killed goes on where it was; without it that stage starts afresh.
            Stages that are complete and unchanged are skipped in either case.
        opts: ``KEY VALUE`` pairs on top of the config of every stage, ``stage:KEY VALUE`` of one.

    Returns:
        What ``metrics.json`` holds: ``{stage: {"seconds": ..., "metrics": {...}}}``.
    """
    recipe, output, opts = load_recipe(recipe_file), os.path.abspath(output), list(opts or [])
    check_writable_folder(output)
    if dist.is_torchelastic_launched():
        # torchrun's processes stay together; those without work wait for a stage to end.
        launch(_run_stages, num_gpus, args=(recipe, output, opts, resume, _run_in_group))
    else:
        processes = (num_gpus, num_machines, machine_rank, dist_url)
        run = functools.partial(_run_in_new_processes, processes)
        signs = signs_of_life(output) if num_machines > 1 and machine_rank == 0 else nullcontext()
        with signs:
            _run_stages(recipe, output, opts, resume, run, machine_rank == 0)
    return read_json(os.path.join(output, "metrics.json"))


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
        fingerprint = _fingerprint(cfg, stage, output, fingerprints)
        fingerprints[stage.name] = fingerprint
        result = _read_result(cfg.OUTPUT_DIR, fingerprint)
        if result:
            _say(f"{title}: unchanged, skipped", speaks)
        else:
            _say(f"{title}: running ({cfg.OUTPUT_DIR}/log.txt)", speaks)
            run(stage, (recipe, stage, output, opts, resume, fingerprint))
            result = _read_result(cfg.OUTPUT_DIR, fingerprint)
            _say(f"{title}: done in {_duration(result.get('seconds', 0))}", speaks)
        results[stage.name] = {k: v for k, v in result.items() if k != "fingerprint"}
        if speaks:
            write_json(os.path.join(output, "metrics.json"), results, indent=2)
    _say(f"{recipe.title}: {_duration(time.perf_counter() - start)} in all", speaks)


def _run_in_new_processes(
    processes: tuple[int, int, int, str | None], stage: Stage, args: tuple
) -> None:
    num_gpus, num_machines, machine_rank, dist_url = processes
    if stage.run not in DISTRIBUTED:
        if machine_rank == 0:
            run_in_fresh_process(_run_stage, args)
        else:
            _wait_for_first_machine(*args)
    elif num_gpus * num_machines > 1:
        launch(_run_stage, num_gpus, num_machines, machine_rank, dist_url, args)
    else:
        run_in_fresh_process(_run_stage, args)


def _wait_for_first_machine(
    _recipe: Recipe, stage: Stage, output: str, _opts: list[str], _resume: bool, fingerprint: str
) -> None:
    folder = os.path.join(output, stage.name)
    FirstMachine(output).wait_for(
        lambda: bool(_read_result(folder, fingerprint)), f"stage '{stage.name}'"
    )


def _run_in_group(stage: Stage, args: tuple) -> None:
    if stage.run in DISTRIBUTED:
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
    recipe: Recipe, stage: Stage, output: str, opts: list[str], resume: bool, fingerprint: str
) -> None:
    """One stage, in a process of its own."""
    cfg = stage_config(recipe, stage, output, opts)
    cfg.freeze()
    setup(cfg, verbose=False)
    # A checkpoint or label file of other settings must not be taken up.
    begun = os.path.join(cfg.OUTPUT_DIR, "begun.json")
    resume = resume and read_json(begun).get("fingerprint") == fingerprint
    comm.synchronize()  # all have read it
    if comm.is_main_process():
        write_json(begun, {"fingerprint": fingerprint})
    start = time.perf_counter()
    metrics = RUNNERS[stage.run](cfg, recipe, output, resume)
    if comm.is_main_process():
        result = {
            "fingerprint": fingerprint,
            "seconds": round(time.perf_counter() - start, 1),
            "metrics": metrics,
        }
        write_outputs(cfg, stage.run, output)
        write_json(os.path.join(cfg.OUTPUT_DIR, STAGE_FILE), result, indent=2)


def _run_train(cfg: CfgNode, _recipe: Recipe, _output: str, resume: bool) -> dict:
    return train(cfg, resume)


def _run_cams(cfg: CfgNode, _recipe: Recipe, _output: str, resume: bool) -> dict:
    return make_cams(cfg, resume)


def _run_seeds(cfg: CfgNode, _recipe: Recipe, _output: str, _resume: bool) -> dict:
    return make_seeds(cfg)


def _run_proposals(cfg: CfgNode, _recipe: Recipe, _output: str, _resume: bool) -> dict:
    return make_proposals(cfg)


def _run_pseudo_labels(cfg: CfgNode, _recipe: Recipe, _output: str, resume: bool) -> dict:
    return make_pseudo_labels(cfg, os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE), resume)


def _run_report(cfg: CfgNode, recipe: Recipe, output: str, _resume: bool) -> dict:
    # Of several stages of one kind, the last.
    folders = {s.run: os.path.join(output, s.name) for s in recipe.stages}
    metrics = read_json(os.path.join(output, "metrics.json"))
    path = os.path.join(output, REPORT_FILE)
    make_report(path, recipe.title, metrics, folders["pseudo_labels"], folders["train"])
    return {}


RUNNERS = {
    "train": _run_train,
    "cams": _run_cams,
    "seeds": _run_seeds,
    "proposals": _run_proposals,
    "pseudo_labels": _run_pseudo_labels,
    "report": _run_report,
}
#: Kinds of stages that run on all GPUs.
DISTRIBUTED = ("train", "cams", "pseudo_labels")


def _fingerprint(cfg: CfgNode, stage: Stage, output: str, earlier: dict[str, str]) -> str:
    """Changes when the stage's config, data, outside files, earlier stages or the version do."""
    digest = hashlib.sha256()
    digest.update(f"{__version__} {stage.run}\n".encode())
    deciding = cfg.clone()
    deciding.defrost()
    for key in (*UNDECIDING_KEYS, *UNDECIDING_SECTIONS.get(stage.run, ())):
        *sections, name = key.split(".")
        functools.reduce(CfgNode.__getitem__, sections, deciding).pop(name, None)
    # Paths below the output folder are the same results wherever that folder is.
    digest.update(deciding.dump().replace(output, "{output}").encode())
    for name in _references(stage):
        made = read_outputs(os.path.join(output, name)).get("sha256", "")
        digest.update(f"{name}: {earlier[name]} {made}\n".encode())
    own = [cfg.OUTPUT_DIR, *(os.path.join(output, name) for name in _references(stage))]
    for path in outside_inputs(cfg, stage.run):
        if not any(_is_inside(path, folder) for folder in own):
            digest.update(f"{digest_path(path)}\n".encode())
    pseudo = (cfg.DATASETS.PSEUDO.NAME, cfg.DATASETS.PSEUDO.SEM_SEG_NAME)
    names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, cfg.PSEUDO_LABELS.DATASET, ""} - {*pseudo}
    if {*cfg.DATASETS.TRAIN} & {*pseudo}:  # labels of these images
        names.add(cfg.DATASETS.PSEUDO.SOURCE)
    for name in sorted(names - {""}):
        _digest_dataset(digest, name)
    return digest.hexdigest()


def _is_inside(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _digest_dataset(digest, name: str) -> None:
    for d in dataset_dicts(name):
        digest.update(json.dumps(d, sort_keys=True, default=str).encode())
        try:
            status = os.stat(d["file_name"])
        except OSError as error:
            raise unreadable_image(d["file_name"], error) from error
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())


def _read_result(folder: str, fingerprint: str) -> dict:
    """What the stage's file says, {} where it is of another state or an output is gone."""
    result = read_json(os.path.join(folder, STAGE_FILE))
    if result.get("fingerprint") == fingerprint and outputs_exist(folder):
        return result
    return {}
