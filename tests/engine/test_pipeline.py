"""Recipes: what is read, what is refused, and which options reach which stage."""

import pytest

from wsis_d2.engine.pipeline import load_recipe, stage_config
from wsis_d2.errors import UserError

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\nstages: [{name: a, run: trian, config: c.yaml}]", "runs 'trian'"),
        ("title: x\nstages: [{name: a, run: train, options: {K: '{b}/f'}}]", "needs b"),
        ("stages: 3", "is not a recipe"),
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
