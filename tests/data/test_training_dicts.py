"""The datasets of the stages as calls with plain arguments."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from wsis_d2.data import (
    get_image_label_dicts,
    get_pseudo_label_dicts,
    get_seed_dicts,
    ground_truth_json,
    register_builtin_datasets,
)
from wsis_d2.errors import UserError


@pytest.fixture(autouse=True)
def _shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))
    yield
    register_builtin_datasets()


def test_image_labels_are_all_that_passes():
    found = get_image_label_dicts(["shapes_train_instances", "shapes_val"])
    keys = {"file_name", "image_id", "height", "width", "image_labels"}
    assert all(set(d) == keys for d in found)
    labels = {d["file_name"]: d["image_labels"] for d in DatasetCatalog.get("shapes_train")}
    assert {d["file_name"]: d["image_labels"] for d in found[: len(labels)]} == labels
    assert found[len(labels) :] == get_image_label_dicts("shapes_val")


def test_counts_end_at_one_more_than_the_range():
    found = get_image_label_dicts("shapes_train_instances", max_count=1)
    for counted, d in zip(found, DatasetCatalog.get("shapes_train_instances"), strict=True):
        categories = [a["category_id"] for a in d["annotations"]]
        expected = {c: min(categories.count(c), 2) for c in sorted(set(categories))}
        assert dict(zip(counted["image_labels"], counted["image_counts"])) == expected


def test_pseudo_labels_are_the_files_images_with_instances(tmp_path):
    source = json.loads(Path(ground_truth_json("shapes_train")).read_text())
    source["annotations"] = [a for a in source["annotations"] if a["image_id"] % 2]
    labelled = {a["image_id"] for a in source["annotations"]}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(source))
    found = get_pseudo_label_dicts("pseudo", str(path), source="shapes_train")
    assert {d["image_id"] for d in found} == labelled
    assert sum(len(d["annotations"]) for d in found) == len(source["annotations"])

    path.write_text(json.dumps({**source, "annotations": []}))
    with pytest.raises(UserError, match="no instance"):
        get_pseudo_label_dicts("pseudo", str(path), source="shapes_train")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="did you mean 'shapes_train'"):
        get_image_label_dicts("shapes_trian")
    with pytest.raises(UserError, match="16 of 16 images"):
        get_seed_dicts("shapes_train", str(tmp_path))
    with pytest.raises(UserError, match="missing"):
        get_pseudo_label_dicts("pseudo", str(tmp_path / "no.json"), source="shapes_train")
