"""Every stage of a recipe meets what goes wrong in the world: nothing good is lost, and it goes on.

Here each fault meets a few stages; with ``--hypothesis-profile nightly`` each meets all of them.
Then ``WSIS_D2_FAULT_TABLE=table.md pytest -n 0 tests/integration/test_faults.py`` writes what came
of each.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import QUICK, ROOT
from detectron2.utils import comm
from hypothesis import settings

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import launch, run_tool
from wsis_d2.engine.stages import RECIPE_FILE, STAGE_KINDS
from wsis_d2.engine.stages.files import read_outputs, stage_state
from wsis_d2.files import write_json
from wsis_d2.folder_lock import lock_folder
from wsis_d2.recipes import load_recipe, stage_config
from wsis_d2.recipes.run import _run_stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_loggers")]

CONFIGS = ROOT / "configs" / "shapes" / "irnet"
RECIPE = f"""
title: every kind of stage
stages:
  - {{name: classifier, run: train, config: {CONFIGS}/classifier.yaml}}
  - name: cams
    run: cams
    config: {CONFIGS}/seeds.yaml
    options: {{MODEL.WEIGHTS: "{{classifier}}/model_final.pth", CAM.PATH: "{{cams}}/maps"}}
  - name: seeds
    run: seeds
    config: {CONFIGS}/seeds.yaml
    options: {{CAM.PATH: "{{cams}}/maps", SEEDS.PATH: "{{seeds}}/maps"}}
  - name: irnet
    run: train
    config: {CONFIGS}/irnet.yaml
    options: {{MODEL.WEIGHTS: "{{classifier}}/model_final.pth", SEEDS.PATH: "{{seeds}}/maps"}}
  - name: contours
    run: contours
    config: {CONFIGS}/irnet.yaml
    options: {{MODEL.WEIGHTS: "{{irnet}}/model_final.pth", CONTOURS.PATH: "{{contours}}/maps"}}
  - name: proposals
    run: proposals
    config: {CONFIGS}/pseudo_labels.yaml
    options: {{PROPOSALS.PATH: "{{proposals}}/masks", PROPOSALS.BUILTIN.LONGEST_EDGE: 64}}
  - name: pseudo_labels
    run: pseudo_labels
    config: {CONFIGS}/pseudo_labels.yaml
    options:
      MODEL.WEIGHTS: "{{irnet}}/model_final.pth"
      CAM.PATH: "{{cams}}/maps"
      SEEDS.PATH: "{{seeds}}/maps"
  - name: combine
    run: combine
    config: {CONFIGS}/pseudo_labels.yaml
    options: {{AGREEMENT.LABELS: "('{{pseudo_labels}}/pseudo_labels.json',)"}}
  - name: mask_rcnn
    run: train
    config: {CONFIGS.parent}/mask_rcnn_R_50_slim_FPN.yaml
    options:
      MODEL.WEIGHTS: "{{classifier}}/model_final.pth"
      DATASETS.PSEUDO.JSON: "{{pseudo_labels}}/pseudo_labels.json"
  - {{name: report, run: report, config: {CONFIGS}/pseudo_labels.yaml}}
"""
KINDS = dict(re.findall(r"name: (\w+)[,\s]+run: (\w+)", RECIPE))
ON_ALL_GPUS = [name for name, kind in KINDS.items() if STAGE_KINDS[kind].on_all_gpus]

#: One file that each stage reads.
INPUTS = {
    "cams": "classifier/model_final.pth",
    "seeds": "cams/maps/*.npz",
    "irnet": "seeds/maps/*.png",
    "contours": "irnet/model_final.pth",
    "pseudo_labels": "cams/maps/*.npz",
    "combine": "pseudo_labels/pseudo_labels.json",
    "mask_rcnn": "pseudo_labels/pseudo_labels.json",
    "report": "pseudo_labels/pseudo_labels.json",
}
OPTIONS = [*QUICK, "MODEL.DEVICE", "cpu", "SEED", "0", "SOLVER.CHECKPOINT_PERIOD", "1"]
OPTIONS += ["CAM.SCALES", "(1.0,)", "SOLVER.MAX_ITER", "4"]


def in_stages(some: str, among: Iterable[str] = KINDS) -> pytest.MarkDecorator:
    """Run a test in some stages; nightly in all of those among which they are."""
    is_nightly = settings.get_current_profile_name() == "nightly"
    return pytest.mark.parametrize("name", list(among) if is_nightly else some.split())


class Ended(NamedTuple):
    """How a stage's process ended: its exit code (a signal's is negative), the digest of all that
    it has made, what it said, and its seconds."""

    code: int
    made: str
    said: str
    seconds: float

    def error(self) -> str:
        """The one sentence of a failure that the user can mend."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.said, self.said
        assert len(errors) == 1, self.said
        assert self.code == 2
        return errors[0]


def in_a_fork(function: Callable[[], Any]) -> tuple[int, Any]:
    """The exit code of another process (a signal's is negative), and what the function returned."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            with os.fdopen(writable, "wb") as pipe:
                pickle.dump(function(), pipe)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), pickle.loads(content) if content else None


class Project:
    """A finished run of the recipe, from which any stage can be run again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole = folder / "whole"
        (folder / "recipe.yaml").write_text(RECIPE)
        self.recipe = load_recipe(str(folder / "recipe.yaml"))
        self.stages = {stage.name: stage for stage in self.recipe.stages}
        assert set(KINDS.values()) == set(STAGE_KINDS)
        stages = [{"name": stage.name, "run": stage.run} for stage in self.recipe.stages]
        write_json(self.whole / RECIPE_FILE, {"title": self.recipe.title, "stages": stages})
        self.seconds: dict[str, float] = {}
        for name in self.stages:
            ended = self.run(name, self.whole)
            assert ended.code == 0, ended.said
            self.seconds[name] = ended.seconds

    def before(self, name: str, folder: Path) -> Path:
        """A copy of the output folder as it is when a stage begins."""
        folder.mkdir()
        for earlier in list(self.stages)[: list(self.stages).index(name)]:
            shutil.copytree(self.whole / earlier, folder / earlier, copy_function=os.link)
        shutil.copy(self.whole / RECIPE_FILE, folder)
        return folder

    def made(self, name: str) -> str:
        return read_outputs(str(self.whole / name))["sha256"]

    def run(
        self,
        name: str,
        output: Path,
        *opts: str,
        resume: bool = False,
        prepare: Callable[[], Any] = lambda: None,
        processes: int = 1,
    ) -> Ended:
        """Run a stage in a process of its own, as a recipe does, after ``prepare`` in it."""
        console = output.parent / f"{name}.console.txt"
        stage, options = self.stages[name], [*OPTIONS, *opts]

        def main(_: object) -> None:
            cfg = stage_config(self.recipe, stage, str(output), options)
            state = stage_state(cfg, stage.run, [], str(output), {})
            args = (self.recipe, stage, str(output), options, resume, state)
            if processes == 1:
                prepare()
                began.append(time.monotonic())
                _run_stage(*args)
            else:
                launch(_stage_of_which_one_dies, processes, args=args, device="cpu")

        began: list[float] = []

        def tool() -> tuple[int, float]:
            with open(console, "w") as file:
                sys.stdout = sys.stderr = file
                os.dup2(file.fileno(), 2)
                code = run_tool(main, None)
                return code, time.monotonic() - began[0] if began else 0.0

        status, returned = in_a_fork(tool)
        code, seconds = returned or (status, 0.0)
        made = read_outputs(str(output / name)).get("sha256", "")
        return Ended(code, made, console.read_text(), seconds)


def _stage_of_which_one_dies(*args: Any) -> None:
    if comm.get_rank() == 1:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
    _run_stage(*args)


@pytest.fixture(scope="module")
def project(datasets_root, tmp_path_factory):
    register_builtin_datasets(str(datasets_root))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("DETECTRON2_DATASETS", str(datasets_root))
        yield Project(tmp_path_factory.mktemp("faults"))
    register_builtin_datasets()


@pytest.fixture(scope="module")
def outcomes():
    """What came of a fault in a stage, by both."""
    found: dict[tuple[str, str], str] = {}
    yield found
    table = os.environ.get("WSIS_D2_FAULT_TABLE")
    if table:
        faults = list(dict.fromkeys(fault for fault, _ in found))
        rows = [["stage", *faults], ["---"] * (len(faults) + 1)]
        rows += [[name, *(found.get((fault, name), "–") for fault in faults)] for name in KINDS]
        Path(table).write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))


def stopped(
    project: Project,
    name: str,
    output: Path,
    stop: Callable[[float], Any],
    fault: str,
    resume: bool,
) -> Ended:
    """Run a stage that ``stop`` ends after some seconds, of which it is told.

    They are the same in every run of the tests; where the stage is done before, as it was not
    while it was timed, fewer.
    """
    seconds = random.Random(f"{name} {fault}").uniform(0.05, 0.75) * project.seconds[name]
    while True:
        ended = project.run(name, output, resume=resume, prepare=partial(stop, seconds))
        if ended.code != 0:
            return ended
        shutil.rmtree(output / name)
        seconds /= 2
        assert seconds > 0.001


def _kill_after(seconds: float) -> None:
    # Nobody handles this timer's signal, so it ends the process as SIGKILL does, anywhere.
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _terminate_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, seconds)


@pytest.mark.parametrize("name", list(KINDS))
def test_killed(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    for nth in ("first", "second"):
        ended = stopped(project, name, output, _kill_after, nth, resume=True)
        assert ended.code == -signal.SIGALRM
    assert project.run(name, output, resume=True)[:2] == (0, project.made(name))
    outcomes["kill -9", name] = "the same files"


@in_stages("classifier pseudo_labels report")
def test_terminated(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    ended = stopped(project, name, output, _terminate_after, "terminated", resume=False)
    assert ended.code == 143, ended.said
    assert "Traceback" not in ended.said
    assert "--resume to go on" in ended.said
    assert project.run(name, output, resume=True)[:2] == (0, project.made(name))
    outcomes["SIGTERM", name] = "143, the same files"


@in_stages("pseudo_labels", ON_ALL_GPUS)
def test_one_of_two_processes_dies(project, outcomes, warm_workers, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    ended = project.run(name, output, processes=2)
    assert "process" in ended.error()
    assert project.run(name, output, resume=True)[:2] == (0, project.made(name))
    outcomes["a worker dies", name] = "2, the same files"


@in_stages("classifier cams combine")
def test_full_disk(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    pages = [-(-f.stat().st_size // 4096) for f in (project.whole / name).rglob("*") if f.is_file()]

    def full_and_then_larger() -> tuple[Ended, Ended]:
        disk = mount_memory(output / name, f"size={4 * sum(pages) * 6 // 10}k")
        first = project.run(name, output)
        disk("size=1g")
        return first, project.run(name, output, resume=True)

    first, second = in_namespace(full_and_then_larger)
    assert re.search("No space left|disk is full", first.error())
    assert (second.code, second.made) == (0, project.made(name)), second.said
    outcomes["full disk", name] = "2, the same files"


@in_stages("proposals mask_rcnn")
def test_read_only(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")

    def read_only() -> Ended:
        mount_memory(output / name, "ro")
        return project.run(name, output)

    assert str(output / name) in in_namespace(read_only).error()
    outcomes["read-only folder", name] = "2, names it"


@in_stages("seeds report", INPUTS)
def test_half_of_an_input(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    path = sorted(output.glob(INPUTS[name]))[0]
    content = path.read_bytes()
    path.unlink()  # a link
    path.write_bytes(content[: len(content) // 2])
    assert str(path) in project.run(name, output).error()
    path.write_bytes(content)
    assert project.run(name, output, resume=True)[:2] == (0, project.made(name))
    outcomes["half of an input", name] = "2, names it; mended: the same files"


@in_stages("seeds")
def test_two_runs_in_a_folder(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    (output / name).mkdir()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            lock_folder(output / name)
            os.write(writable, b"1")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(readable, 1) == b"1"
    ended = project.run(name, output)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"is in use by process {pid} on " in ended.error()
    outcomes["folder in use", name] = "2, names the process"


@in_stages("mask_rcnn", [name for name, kind in KINDS.items() if kind == "train"])
def test_diverging(project, outcomes, name, tmp_path):
    output = project.before(name, tmp_path / "out")
    message = project.run(name, output, "SOLVER.BASE_LR", "1e30").error()
    assert re.search(r"in iteration \d on images \S+\.(png|jpg)", message), message
    assert not (output / name / "model_final.pth").exists()
    outcomes["loss not finite", name] = "2, names iteration and images"


def in_namespace(function: Callable[[], Any]) -> Any:
    """Call a function where it may mount what only it sees; skips where that is not allowed."""

    def inside() -> Any:
        new_mounts, new_user = 0x00020000, 0x10000000
        libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.geteuid(), os.getegid()
        if libc.unshare(new_mounts | (new_user if user else 0)) != 0:
            return OSError(ctypes.get_errno(), "unshare")
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        private = 0x4000 | 0x40000  # and all mounts below
        if libc.mount(b"none", b"/", None, private, None) != 0:
            return OSError(ctypes.get_errno(), "mount")
        try:
            return function()
        except OSError as error:
            return error

    _, result = in_a_fork(inside)
    if isinstance(result, OSError):
        pytest.skip(f"this machine lets nobody mount file systems ({result})")
    return result


def mount_memory(folder: Path, options: str) -> Callable[[str], None]:
    """Mount a file system in memory; gives what mounts it again with other options."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(options: str, remount: int = 0) -> None:
        read_only = 1 if options == "ro" else 0
        data = b"" if read_only else options.encode()
        if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", remount | read_only, data) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    mount(options)
    return lambda options: mount(options, 32)
