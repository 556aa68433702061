"""COCO's own datasets with image-level labels."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from wsis_d2.data import ground_truth_json, register_builtin_datasets
from wsis_d2.errors import UserError


@pytest.fixture
def datasets(tmp_path):
    """A COCO folder with two annotated images and one without annotations."""
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/val2017").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (6, 4)).save(tmp_path / "coco/val2017" / name)
    square = {"segmentation": [[0, 0, 2, 0, 2, 2]], "bbox": [0, 0, 2, 2], "area": 2, "iscrowd": 0}
    classes = MetadataCatalog.get("coco_2017_val").thing_classes
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    content = {
        "images": [
            {"id": id_, "file_name": name, "height": 4, "width": 6}
            for id_, name in ((139, "a.jpg"), (285, "b.jpg"), (632, "c.jpg"))
        ],
        "annotations": [
            {"id": 1, "image_id": 139, "category_id": 90, **square},
            {"id": 2, "image_id": 139, "category_id": 1, **square},
            {"id": 3, "image_id": 285, "category_id": 13, **square},
        ],
        "categories": [{"id": id_, "name": classes[i]} for id_, i in ids.items()],
    }
    path = tmp_path / "coco/annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    register_builtin_datasets(str(tmp_path))
    yield tmp_path
    register_builtin_datasets()


def test_labels_are_the_categories_present(datasets):
    dicts = DatasetCatalog.get("coco_2017_val_labels")
    # COCO's ids 1..90 have gaps: 13 (stop sign) is class 11 and 90 (toothbrush) class 79.
    assert [(d["image_id"], d["image_labels"]) for d in dicts] == [(139, [0, 79]), (285, [11])]
    allowed = {"file_name", "image_id", "height", "width", "image_labels", "image_counts"}
    assert all(set(d) == allowed for d in dicts)


def test_metadata(datasets):
    metadata = MetadataCatalog.get("coco_2017_val_labels")
    assert metadata.thing_classes[11] == "stop sign"
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.supervision == "image_labels"
    path = str(datasets / "coco/annotations/instances_val2017.json")
    assert metadata.gt_json == ground_truth_json("coco_2017_val_labels") == path
    assert metadata.image_root == str(datasets / "coco/val2017")


@pytest.mark.parametrize("name", ["coco_2014_train_labels", "coco_2017_train_labels"])
def test_missing_files(datasets, name):
    with pytest.raises(UserError, match="instances_train20.*is missing"):
        DatasetCatalog.get(name)
    with pytest.raises(UserError, match=f"the ground truth of dataset '{name}'"):
        ground_truth_json(name)


def test_root_comes_from_the_environment(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_builtin_datasets()
        metadata = MetadataCatalog.get("coco_2014_train_labels")
        assert metadata.image_root == str(tmp_path / "coco/train2014")
    register_builtin_datasets()
