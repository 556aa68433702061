"""The next round of a recipe, whose second stage heeds a review."""

import shutil

import pytest
from conftest import ROOT

from wsis_d2.data import ground_truth_json, register_builtin_datasets
from wsis_d2.engine.stages.files import stage_state
from wsis_d2.errors import UserError
from wsis_d2.files import file_sha256, write_json
from wsis_d2.recipes import load_recipe, review_options, stage_config
from wsis_d2.recipes.recipe import references

REVIEW = {"review": 1, "labels_sha256": "0" * 64}


def _recipe(name):
    return str(ROOT / "configs" / "shapes" / f"{name}.yaml")


@pytest.fixture
def review(tmp_path):
    write_json(tmp_path / "review.json", REVIEW)
    return tmp_path / "review.json"


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [("irnet/recipe", "mask_rcnn"), ("wise/self_training", "mask_rcnn_2")],
)
def test_the_stage_that_learns_from_the_masks_heeds_it(recipe, stage, review, tmp_path):
    options = review_options(_recipe(recipe), str(tmp_path), review)
    assert options == [f"{stage}:DATASETS.PSEUDO.REVIEW", str(review)]


def test_a_recipe_without_such_a_stage_cannot(review, tmp_path):
    with pytest.raises(UserError, match="no stage of recipe .* learns from pseudo masks"):
        review_options(_recipe("affinitynet/recipe"), str(tmp_path), review)


def test_a_file_that_is_no_review_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        review_options(_recipe("irnet/recipe"), str(tmp_path), tmp_path / "none.json")
    write_json(tmp_path / "labels.json", {"images": []})
    with pytest.raises(UserError, match="is no review"):
        review_options(_recipe("irnet/recipe"), str(tmp_path), tmp_path / "labels.json")


def test_another_review_runs_the_second_stage_alone(datasets_root, tmp_path):
    register_builtin_datasets(str(datasets_root))
    recipe, output = load_recipe(_recipe("irnet/recipe")), str(tmp_path / "out")
    # Labels to be reviewed: any of the same classes.
    labels = tmp_path / "out" / "pseudo_labels" / "pseudo_labels.json"
    labels.parent.mkdir(parents=True)
    shutil.copy(ground_truth_json("shapes_train"), labels)
    content = {"review": 1, "labels_sha256": file_sha256(str(labels))}
    review = tmp_path / "review.json"
    write_json(review, content)

    def states(path):
        opts = review_options(_recipe("irnet/recipe"), output, path) if path else []
        found: dict[str, str] = {}
        for stage in recipe.stages:
            cfg = stage_config(recipe, stage, output, opts)
            state = stage_state(cfg, stage.run, references(stage), output, found)
            found[stage.name] = state.fingerprint
        return found

    def changed(one, other):
        return [name for name in one if one[name] != other[name]]

    try:
        first = states(review)
        later = ["mask_rcnn", "report"]
        assert changed(states(""), first) == later
        write_json(tmp_path / "moved.json", content)
        assert changed(states(tmp_path / "moved.json"), first) == []
        write_json(tmp_path / "other.json", {**content, "rejected": [4]})
        assert changed(states(tmp_path / "other.json"), first) == later
    finally:
        register_builtin_datasets()
