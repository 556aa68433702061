"""Readers of COCO files and masks: what they take, and that nothing else breaks them."""

import contextlib
import json

import numpy as np
import pytest
from conftest import json_values
from hypothesis import given, settings
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError
from wsis_d2.evaluation import (
    load_coco_detections,
    load_coco_ground_truths,
    read_coco_json,
)
from wsis_d2.structures import encode_mask


def dataset(**changes):
    mask = np.zeros((8, 9), dtype=np.uint8)
    mask[2:5, 3:7] = 1
    rle = encode_mask(mask)
    annotation = {
        "id": 1,
        "image_id": 5,
        "category_id": 2,
        "iscrowd": 0,
        "segmentation": rle,
    }
    crowd = {**annotation, "id": 2, "iscrowd": 1, "segmentation": {"size": [8, 9], "counts": [72]}}
    polygon = {**annotation, "id": 3, "segmentation": [[3, 2, 7, 2, 7, 5, 3, 5]], "score": 0.25}
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 8, "width": 9}],
        "annotations": [annotation, crowd, polygon],
        "categories": [{"id": 2, "name": "cat"}],
        **changes,
    }


def save(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_ground_truths_leave_crowds_out(tmp_path):
    truths = load_coco_ground_truths(save(tmp_path, dataset()))
    assert [t["category_id"] for t in truths] == [2, 2]
    assert [int(mask_utils.area(t["segmentation"])) for t in truths] == [12, 12]


def test_detections_of_a_dataset_and_of_a_results_list(tmp_path):
    content = dataset()
    detections, read = load_coco_detections(save(tmp_path, content))
    assert [d["score"] for d in detections] == [1.0, 0.25]  # a crowd region is no detection
    assert read["categories"] == content["categories"]
    results = [a for a in content["annotations"] if not a["iscrowd"]]
    results, read = load_coco_detections(save(tmp_path, results), {5: (8, 9)})
    assert results == detections
    assert read is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a JSON file"),
        ("\x00", "is not a JSON file"),
        ([], "no list 'images'"),
        (dataset(categories=None), "no list 'categories'"),
        (dataset(images=[{"file_name": "a"}]), r"images\[0\] has no 'id'"),
        (dataset(annotations=[{"image_id": 5}]), r"annotations\[0\] has no 'category_id'"),
        (dataset(annotations=[{"image_id": 5, "category_id": 2}]), "it has no segmentation"),
        (
            dataset(annotations=[{"image_id": 6, "category_id": 2, "segmentation": [[0] * 6]}]),
            "annotation 0 of image 6 .* polygon .* not known",
        ),
    ],
)
def test_what_is_no_coco_file_is_told_in_one_sentence(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        load_coco_ground_truths(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_bad_score(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_coco_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_coco_json(tmp_path)
    result = {**dataset()["annotations"][0], "score": "high"}
    with pytest.raises(UserError, match="score of annotation 0"):
        load_coco_detections(save(tmp_path, [result]))


@settings(max_examples=100, deadline=None)
@given(json_values("images", "annotations", "categories", "id", "image_id", "size", "counts"))
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    path = save(tmp_path_factory.getbasetemp(), json.dumps(value))
    for reader in (load_coco_ground_truths, load_coco_detections):
        with contextlib.suppress(UserError):
            reader(path)
