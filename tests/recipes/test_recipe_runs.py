"""Recipes: what is read, what is refused, and which options reach which stage."""

import dataclasses

import pytest
import yaml
from detectron2.engine import default_argument_parser

from wsis_d2.errors import UserError
from wsis_d2.recipes import load_recipe, stage_config
from wsis_d2.recipes import run as runner

RECIPE = """
title: A test
stages:
  - {name: first, run: train, config: config.yaml}
  - name: second
    run: train
    config: config.yaml
    options: {MODEL.WEIGHTS: "{first}/model_final.pth", SOLVER.MAX_ITER: 7}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 5\nSEED: 3\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_recipe(str(tmp_path / "recipe.yaml"))


def test_options_of_the_recipe_and_of_the_command_line(recipe):
    first, second = (
        stage_config(recipe, stage, "/out", ["SEED", "9", "second:SOLVER.BASE_LR", "0.5"])
        for stage in recipe.stages
    )
    assert (first.SOLVER.MAX_ITER, second.SOLVER.MAX_ITER) == (5, 7)
    assert (first.SEED, second.SEED) == (9, 9)
    assert first.SOLVER.BASE_LR != second.SOLVER.BASE_LR == 0.5
    assert second.MODEL.WEIGHTS == "/out/first/model_final.pth"
    assert (first.OUTPUT_DIR, second.OUTPUT_DIR) == ("/out/first", "/out/second")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["third:SEED", "1"], "is for stage 'third', but the stages are first, second"),
        (["SEED"], "come in pairs"),
        (["SEEED", "1"], "SEEED"),
    ],
)
def test_options_with_mistakes(recipe, options, message):
    with pytest.raises(UserError, match=message):
        stage_config(recipe, recipe.stages[0], "/out", options)


def test_a_recipe_may_end_early(recipe, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(
        runner, "_run_stages", lambda recipe, *_: ran.append([s.name for s in recipe.stages])
    )
    for last_stage in ("", "first", "second"):
        runner.run_recipe(
            str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), last_stage=last_stage
        )
    assert ran == [["first", "second"], ["first"], ["first", "second"]]
    with pytest.raises(UserError, match="no stage 'third' to end with: choose one of first, seco"):
        runner.run_recipe(str(tmp_path / "recipe.yaml"), str(tmp_path), last_stage="third")


@pytest.mark.parametrize(
    ("options", "expected", "of_all"),
    [
        ([], ["cuda", "cuda"], "cuda"),
        (["second:MODEL.DEVICE", "cpu"], ["cuda", "cpu"], "cuda"),
        (["MODEL.DEVICE", "cpu"], ["cpu", "cpu"], "cpu"),
    ],
)
def test_processes_are_started_for_the_device_of_their_stage(
    monkeypatch, recipe, options, expected, of_all
):
    devices = []
    monkeypatch.setattr(runner, "launch", lambda *_, device, **__: devices.append(device))
    for stage in recipe.stages:
        args = (recipe, stage, "/out", options, False, "fingerprint")
        runner._run_in_new_processes((2, 1, 0, None), stage, args)
    assert devices == expected
    # torchrun's processes run all of them.
    assert runner._group_device(recipe, "/out", options) == of_all


@pytest.fixture
def run(tmp_path, recipe, monkeypatch):
    """Run the recipe; gives the arguments of its processes, of which none is started."""
    started = []
    monkeypatch.setattr(runner, "_run_stages", lambda *args: started.append(args[4].args[0]))

    def run_recipe(**options):
        runner.run_recipe(str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), **options)
        return started

    return run_recipe


def test_a_second_recipe_on_a_machine_finds_a_port(run):
    # A port of the user's is Detectron2's default.
    dist_url = default_argument_parser().get_default("dist_url")
    assert run(num_gpus=2, dist_url=dist_url) == [(2, 1, 0, "auto")]


def test_a_recipe_keeps_other_runs_from_its_folder(run, tmp_path, monkeypatch):
    def lock(folder):
        assert folder == str(tmp_path / "out")
        raise UserError("in use")

    monkeypatch.setattr(runner, "lock_folder", lock)
    with pytest.raises(UserError, match="in use"):
        run()
    assert not list((tmp_path / "out").iterdir())
    # The machines after the first do not write there.
    assert run(num_machines=2, machine_rank=1, dist_url="tcp://host:1")


def test_a_mistake_in_the_last_stage_is_found_before_the_first_runs(run):
    with pytest.raises(UserError, match="stage 'second': option SOLVER.MAX_ITERS 3"):
        run(opts=["second:SOLVER.MAX_ITERS", "3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\nstages: [{name: a, run: trian, config: c.yaml}]", "runs 'trian'"),
        ("title: x\nstages: [{name: a, run: train, options: {K: '{b}/f'}}]", "needs b"),
        ("stages: 3", "is not a recipe"),
        ("- a list", "is not a recipe"),
        ("title: x\nstages: {a: {run: train}}", "is not a recipe"),
        ("title: [", "not valid YAML"),
    ],
)
def test_recipes_with_mistakes(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(str(path))
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(str(tmp_path / "none.yaml"))


BASE = """
title: A base
stages:
  - {name: first, run: train, config: config.yaml, options: {SEED: 1, SOLVER.MAX_ITER: 7}}
  - {name: second, run: train, config: config.yaml}
  - {name: report, run: report, config: config.yaml}
"""


def _load(folder, **files):
    """The recipe ``recipe.yaml`` of files that are given by their names without the ending."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return load_recipe(str(folder / "recipe.yaml"))


def test_a_report_reads_all_earlier_stages_where_it_does_not_say(tmp_path):
    assert _load(tmp_path, recipe=BASE).stages[2].inputs == ("first", "second")
    said = BASE.replace("run: report,", "run: report, inputs: [second],")
    assert _load(tmp_path, recipe=said).stages[2].inputs == ("second",)


def test_a_recipe_takes_over_its_base(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text(BASE)
    base = load_recipe(str(tmp_path / "bases" / "base.yaml"))
    recipe = _load(tmp_path, recipe="_BASE_: bases/base.yaml")
    # Configs are beside the recipe that is run.
    assert recipe == dataclasses.replace(base, folder=str(tmp_path))
    assert _load(tmp_path, recipe="_BASE_: bases/base.yaml\ntitle: x").title == "x"


def test_a_recipe_changes_adds_and_leaves_out_stages_by_name(tmp_path):
    middle = """
        _BASE_: base.yaml
        stages:
          first: {config: other.yaml, options: {SEED: 2}}
          third: {after: first, run: seeds, options: {CAM.PATH: "{first}/maps"}}
    """
    recipe = "{_BASE_: middle.yaml, title: x, stages: {second: null, third: {run: cams}}}"
    recipe = _load(tmp_path, base=BASE, middle=middle, recipe=recipe)
    whole = """
        title: x
        stages:
          - {name: first, run: train, config: other.yaml, options: {SEED: 2, SOLVER.MAX_ITER: 7}}
          - {name: third, run: cams, options: {CAM.PATH: "{first}/maps"}}
          - {name: report, run: report, config: config.yaml, inputs: [first, third]}
    """
    assert recipe == _load(tmp_path, recipe=whole)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"_BASE_": "recipe.yaml"}, "recipe.yaml is its own base"),
        ({"_BASE_": "circle.yaml"}, "its own base .*recipe.yaml -> .*circle.yaml -> .*recipe.yaml"),
        ({"_BASE_": "none.yaml"}, "none.yaml does not exist: check the _BASE_ of .*recipe.yaml"),
        ({"_BASE_": "."}, "cannot be read .*: check the _BASE_"),
        ({"_BASE_": ["base.yaml"]}, "name one recipe file"),
        ({"_BASE_": "list.yaml"}, "list.yaml is not a recipe: it needs a title and stages"),
        ({"_BASE_": "config.yaml"}, "config.yaml is not a recipe: it needs a title and stages"),
        ({"_BASE_": "base.yaml", "stage": {}}, "has stage: it takes _BASE_, title, stages"),
        ({"_BASE_": "base.yaml", "stages": [{"name": "first"}]}, "must be changes by name"),
        ({"_BASE_": "base.yaml", "stages": {"first": "c.yaml"}}, "'first' .* is 'c.yaml': give it"),
        (
            {"_BASE_": "base.yaml", "stages": {"frist": {"config": "c.yaml"}}},
            "changes stage 'frist', but its _BASE_ has first, second, report",
        ),
        ({"_BASE_": "base.yaml", "stages": {"frist": None}}, "changes stage 'frist'"),
        (
            {"_BASE_": "base.yaml", "stages": {"new": {"after": "frist", "run": "train"}}},
            "correct the name, or say 'after: STAGE'",
        ),
        ({"_BASE_": "base.yaml", "stages": {"first": {"after": "second"}}}, "'after'"),
        ({"_BASE_": "base.yaml", "stages": {"first": {"options": "SEED 3"}}}, "is not a recipe"),
        ({"_BASE_": "base.yaml", "stages": {"new": {"after": "first"}}}, "'run'"),
    ],
)
def test_inheritance_with_mistakes(tmp_path, recipe, message):
    others = {"base": BASE, "list": "- a", "config": "SEED: 3", "circle": "_BASE_: recipe.yaml"}
    with pytest.raises(UserError, match=message):
        _load(tmp_path, recipe=yaml.dump(recipe), **others)
