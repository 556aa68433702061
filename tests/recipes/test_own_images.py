"""The call for people: what it runs, and what it says of the results."""

import os
import sys
from pathlib import Path

import pytest
import yaml

import wsis_d2
from wsis_d2.errors import UserError
from wsis_d2.recipes import own_images, pseudo_label


@pytest.fixture
def ran(monkeypatch):
    """The arguments of the recipes that were run, without running them."""
    calls = []

    def run_recipe(recipe_file, output, **arguments):
        main = sys.modules["__main__"]
        assert not hasattr(main, "__file__")
        assert main.__spec__ is None  # which is what new processes look at
        calls.append((recipe_file, output, arguments))
        (Path(output) / "pseudo_labels/pseudo_labels_sem_seg").mkdir(parents=True, exist_ok=True)
        return {"classifier": {"seconds": 3, "metrics": {"mAP": 4}}, "seeds": {"metrics": None}}

    monkeypatch.setattr(own_images, "run_recipe", run_recipe)
    return calls


@pytest.fixture
def photos(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("policy", "spins"), [(None, "1000"), ("ACTIVE", None)])
def test_waiting_threads_sleep_unless_the_user_says_how_they_wait(
    ran, photos, monkeypatch, policy, spins
):
    monkeypatch.setattr(os, "environ", {} if policy is None else {"OMP_WAIT_POLICY": policy})
    pseudo_label("photos", output="out")
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_the_call_runs_a_recipe(ran, photos, tmp_path):
    main = sys.modules["__main__"]
    options = {"SEED": 3, "classifier:SOLVER.MAX_ITER": 7}
    result = pseudo_label("photos", "labels.csv", output="out", classes=["a"], options=options)
    assert sys.modules["__main__"] is main
    ((recipe, output, arguments),) = ran
    assert yaml.safe_load(Path(recipe).read_text())["title"].startswith("IRNet on your own")
    opts = arguments.pop("opts")
    assert dict(zip(opts[::2], opts[1::2])) == {
        "DATASETS.OWN_TRAIN.IMAGE_ROOT": str(tmp_path / "photos"),
        "DATASETS.OWN_TRAIN.LABELS": str(tmp_path / "labels.csv"),
        "DATASETS.OWN_TRAIN.CLASSES": ("a",),
        "SEED": 3,
        "classifier:SOLVER.MAX_ITER": 7,
    }
    assert arguments == {"num_gpus": 1, "resume": True, "last_stage": "pseudo_labels"}
    assert output == "out"
    assert result == own_images.PseudoLabels(
        json_file=str(tmp_path / "out/pseudo_labels/pseudo_labels.json"),
        label_maps=str(tmp_path / "out/pseudo_labels/pseudo_labels_sem_seg"),
        report="",
        metrics={"classifier": {"mAP": 4}, "seeds": {}},
    )


def test_all_stages_of_another_method(ran, photos, tmp_path):
    result = pseudo_label(Path("photos"), method="wise_cams", output=tmp_path, second_stage=True)
    ((recipe, _, arguments),) = ran
    assert recipe.endswith("own/wise_cams_mobile/recipe.yaml")
    assert arguments["last_stage"] == ""
    assert "" in arguments["opts"]  # no label file: class folders
    assert result.report == str(tmp_path / "report.html")


def test_what_is_missing_is_said_at_once(ran, photos):
    with pytest.raises(UserError, match="'irnett': choose one of affinitynet, irnet, wise, wise_"):
        pseudo_label("photos", method="irnett")
    with pytest.raises(UserError, match="the image folder, 'nowhere', is missing"):
        pseudo_label("nowhere")
    with pytest.raises(UserError, match="the label file, 'no.csv', is missing"):
        pseudo_label("photos", "no.csv")
    assert not ran


def test_it_is_found_at_the_top():
    assert wsis_d2.pseudo_label is pseudo_label
    assert wsis_d2.PseudoLabels is own_images.PseudoLabels
    with pytest.raises(AttributeError, match="'wsis_d2' has no attribute 'pseudo_labels'"):
        wsis_d2.pseudo_labels  # noqa: B018
