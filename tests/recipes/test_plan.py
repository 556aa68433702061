"""What a recipe would run, and why: tools/run_pipeline.py --dry-run."""

import argparse
import os
import runpy
import shutil
from dataclasses import asdict

import pytest
from conftest import ROOT

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine.stages.files import STAGE_FILE, stage_state
from wsis_d2.errors import UserError
from wsis_d2.files import write_bytes, write_json, write_text
from wsis_d2.recipes import PlannedStage, load_recipe, plan_recipe, stage_config
from wsis_d2.recipes.recipe import references

RECIPE = """
title: A test
stages:
  - {name: classifier, run: train, config: config.yaml}
  - name: masks
    run: proposals
    config: config.yaml
    options: {PROPOSALS.PATH: "{masks}/proposals"}
  - name: detector
    run: train
    config: config.yaml
    options: {MODEL.WEIGHTS: "{classifier}/model_final.pth"}
"""
CONFIG = """
DATASETS: {TRAIN: ["shapes_train"], TEST: []}
MODEL: {DEVICE: cpu, WEIGHTS: ""}
SOLVER: {MAX_ITER: 5, STEPS: [3, 4]}
"""


class Project:
    """A recipe and its output folder; its stages need not be run to be complete."""

    def __init__(self, folder):
        self.folder, self.output = folder, folder / "out"
        self.file = str(folder / "recipe.yaml")
        write_text(self.file, RECIPE)
        write_text(folder / "config.yaml", CONFIG)

    def complete(self, *opts):
        """Write what the stages would have left."""
        recipe, fingerprints = load_recipe(self.file), {}
        for number, stage in enumerate(recipe.stages, 1):
            cfg = stage_config(recipe, stage, str(self.output), list(opts))
            made = self.output / stage.name / "model_final.pth"
            write_bytes(made, bytes(1000 * number))
            write_json(
                made.with_name("outputs.json"), {"sha256": "0", "files": {made.name: 1000 * number}}
            )
            inputs = references(stage)
            state = stage_state(cfg, stage.run, inputs, str(self.output), fingerprints)
            fingerprints[stage.name] = state.fingerprint
            result = {**asdict(state), "seconds": 10.0 * number}
            write_json(made.with_name(STAGE_FILE), result)
            write_text(made.with_name("config.yaml"), cfg.dump())

    def plan(self, *opts):
        return plan_recipe(self.file, str(self.output), list(opts))

    def why(self, *opts):
        return [stage.why for stage in self.plan(*opts)]

    def files(self):
        return {str(path): path.stat().st_mtime_ns for path in self.folder.rglob("*")}


@pytest.fixture
def project(tmp_path, datasets_root):
    register_builtin_datasets(str(datasets_root))
    yield Project(tmp_path)
    register_builtin_datasets()


def test_an_output_folder_that_does_not_exist(project):
    before = project.files()
    assert project.plan() == [
        PlannedStage("classifier", "never ran", None, 0),
        PlannedStage("masks", "never ran", None, 0),
        PlannedStage("detector", "after classifier", None, 0),
    ]
    assert project.files() == before


def test_complete_stages_are_skipped_and_what_they_took_is_known(project):
    project.complete()
    before = project.files()
    plan = project.plan()
    assert project.files() == before
    assert [stage.why for stage in plan] == ["", "", ""]
    assert [stage.seconds for stage in plan] == [10, 20, 30]
    sizes = [sum(p.stat().st_size for p in (project.output / s.name).iterdir()) for s in plan]
    assert [stage.size for stage in plan] == sizes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["SOLVER.MAX_ITER", "7"],
            ["changed: SOLVER.MAX_ITER 5 -> 7", "", "after classifier"],
        ),
        (["masks:SEED", "3"], ["", "changed: SEED -1 -> 3", ""]),
        (
            ["detector:SOLVER.STEPS", "(4,)", "detector:SOLVER.BASE_LR", "0.5"],
            ["", "", "changed: SOLVER.BASE_LR 0.001 -> 0.5, SOLVER.STEPS [3, 4] -> [4]"],
        ),
        (["OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", "1"], ["", "", ""]),
    ],
)
def test_changed_keys_are_named(project, options, expected):
    project.complete()
    assert project.why(*options) == expected


def test_files_images_and_stages_that_changed_are_named(project, datasets_root, tmp_path):
    weights = tmp_path / "start.pth"
    weights.write_bytes(b"1")
    copy = tmp_path / "datasets" / "shapes"
    shutil.copytree(datasets_root / "shapes", copy)
    register_builtin_datasets(str(copy.parent))
    options = ("classifier:MODEL.WEIGHTS", str(weights))
    project.complete(*options)
    assert project.why(*options) == ["", "", ""]

    weights.write_bytes(b"2")
    assert project.why(*options) == [f"changed: '{weights}'", "", "after classifier"]
    weights.write_bytes(b"1")

    image = next(copy.glob("*/train*.jpg"))
    os.utime(image, ns=(0, 0))
    assert project.why(*options) == ["", "", ""], "the same bytes"
    image.write_bytes(image.read_bytes() + b"\0")
    dataset = "changed: dataset 'shapes_train'"
    assert project.why(*options) == [dataset, dataset, "after classifier"]


def test_results_that_are_gone_or_of_an_older_version(project):
    project.complete()
    (project.output / "classifier" / "model_final.pth").unlink()
    assert project.why() == ["what it made is gone", "", "after classifier"]
    (project.output / "masks" / STAGE_FILE).unlink()
    assert project.why()[1] == "not finished"
    # Before parts were written down.
    write_json(project.output / "masks" / STAGE_FILE, {"fingerprint": "0", "seconds": 3.0})
    assert project.why()[1] == "changed: config"


def test_a_mistake_in_the_last_stage_is_found_before_the_first(project):
    (project.folder / "recipe.yaml").write_text(RECIPE.replace("MODEL.WEIGHTS", "MODEL.WIEGHTS"))
    with pytest.raises(UserError, match="MODEL.WIEGHTS"):
        project.plan()


def test_the_tool_shows_it(project, monkeypatch, capsys):
    project.complete()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    main = runpy.run_path(str(ROOT / "tools" / "run_pipeline.py"))["main"]
    arguments = {"recipe": project.file, "output": str(project.output), "opts": ["SEED", "3"]}
    main(argparse.Namespace(dry_run=True, review="", **arguments))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "classifier run changed: SEED -1 -> 3 0:00:10 0.00 GB" in lines
    assert "detector run after classifier 0:00:30 0.00 GB" in lines
    assert lines[-1].startswith("time by the last run: 0:01:00; free disk: ")
