"""A round of review: a recipe, decisions about its masks, the recipe again."""

import json
import re
import shutil

import pytest
from conftest import QUICK
from detectron2.data import DatasetCatalog

from wsis_d2.data import register_builtin_datasets, register_pseudo_labels
from wsis_d2.files import file_sha256, write_json

RECIPE = ("--recipe", "configs/shapes/wise/recipe.yaml")


@pytest.mark.slow
def test_a_review_trains_the_second_stage_again(wise_output, datasets_root, run_tool, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(wise_output, output)
    labels = output / "pseudo_labels" / "pseudo_labels.json"
    masks = json.loads(labels.read_text())["annotations"]
    review = {
        "review": 1,
        "labels_sha256": file_sha256(str(labels)),
        "rejected": [mask["id"] for mask in masks[::2]],
    }
    write_json(tmp_path / "review.json", review)
    command = (*RECIPE, "--output", output, "--review", tmp_path / "review.json")

    completed = run_tool("run_pipeline.py", *command, "--dry-run", *QUICK)
    assert completed.returncode == 0, completed.stderr
    would = dict(re.findall(r"^(\w+) +(run|skip) ", completed.stdout, re.MULTILINE))
    assert [name for name, what in would.items() if what == "run"] == ["mask_rcnn", "report"]

    completed = run_tool("run_pipeline.py", *command, *QUICK)
    assert completed.returncode == 0, completed.stderr
    ran = re.findall(r"\] (\w+): running", completed.stdout)
    assert ran == ["mask_rcnn", "report"]
    config = (output / "mask_rcnn" / "config.yaml").read_text()
    assert str(tmp_path / "review.json") in config
    assert '"done": {"review": 1' in (output / "report.html").read_text()
    # As the tool writes them.
    reviewed = tmp_path / "reviewed.json"
    done = run_tool("apply_review.py", labels, tmp_path / "review.json", "--output", reviewed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{len(masks) // 2} kept, 0 reclassified, ")
    register_builtin_datasets(str(datasets_root))
    register_pseudo_labels("reviewed", str(reviewed), source="shapes_train")
    left = sum(len(d["annotations"]) for d in DatasetCatalog.get("reviewed"))
    assert left == len(masks) // 2

    write_json(tmp_path / "review.json", {**review, "labels_sha256": "0" * 64})
    completed = run_tool("run_pipeline.py", *command, *QUICK)
    assert completed.returncode == 2
    assert "is of other pseudo labels than" in completed.stderr
    assert completed.stderr.startswith("error: ")
    assert "Traceback" not in completed.stderr
    done = run_tool("apply_review.py", labels, tmp_path / "review.json", "--output", reviewed)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: review")
