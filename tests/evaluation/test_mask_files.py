"""One COCO file against another: what is checked, and COCO's own numbers."""

import json
import logging
import math

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError
from wsis_d2.evaluation import evaluate_mask_files

SIZE = (100, 120)


def annotation(image_id, category_id, x, width=40, **more):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:40, x : x + width] = 1
    rle = mask_utils.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    return {"image_id": image_id, "category_id": category_id, "segmentation": rle, **more}


def dataset(annotations, image_ids=(1, 2), names=("cat", "dog")):
    return {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in image_ids],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }


TRUTHS = [annotation(1, 1, 0), annotation(1, 2, 60), annotation(2, 1, 20)]


@pytest.fixture
def save(tmp_path):
    def save(content, name):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return save


def test_a_file_against_itself(save):
    gt = save(dataset(TRUTHS), "gt.json")
    metrics, table = evaluate_mask_files(gt, gt, coco=True)
    assert metrics["AP75"] == metrics["ABO"] == 100
    assert metrics["coco"]["AP"] == metrics["coco"]["APm"] == pytest.approx(100)
    assert math.isnan(metrics["coco"]["APl"])
    assert "cat" in table
    assert "COCO's evaluation of masks: AP 100.0" in table


def test_results_list_and_coco_ap(save):
    gt = save(dataset(TRUTHS, names=("cat", "dog", "cow")), "gt.json")
    # Class 1: one of two found with IoU 0.775; class 2: found exactly.
    results = [annotation(1, 1, 0, 31, score=0.8), annotation(1, 2, 60, score=0.6)]
    metrics, _ = evaluate_mask_files(gt, save(results, "pred.json"), coco=True)
    assert metrics["AP75"] == pytest.approx((50 + 100) / 2)
    assert metrics["ABO"] == pytest.approx((77.5 / 2 + 100) / 2)
    # COCO samples recall at 101 points: half of the recall is 51 of them. IoU 0.5..0.75: 6 of 10.
    ap = 100 * 51 / 101
    assert metrics["coco"]["AP50"] == pytest.approx((ap + 100) / 2)
    assert metrics["coco"]["AP"] == pytest.approx((0.6 * ap + 100) / 2)


def test_empty_results_give_0(save):
    metrics, _ = evaluate_mask_files(
        save(dataset(TRUTHS), "gt.json"), save([], "pred.json"), coco=True
    )
    assert metrics["AP25"] == metrics["ABO"] == metrics["coco"]["AP"] == 0


def test_crowds_are_no_objects(save):
    crowd = annotation(2, 1, 60, 60, iscrowd=1)
    gt = save(dataset([*TRUTHS, crowd]), "gt.json")
    found = [{**a, "score": 0.5} for a in TRUTHS] + [annotation(2, 1, 70, score=0.9)]
    metrics, _ = evaluate_mask_files(gt, save(found, "pred.json"), coco=True)
    assert metrics["num_objects"] == 3
    assert metrics["AP50"] < 100  # the detection on the crowd is false here ...
    assert metrics["coco"]["AP50"] == pytest.approx(100)  # ... and ignored by COCO


def test_what_does_not_fit_is_told(save, caplog):
    gt = save(dataset(TRUTHS), "gt.json")
    for content, message in [
        (dataset([], image_ids=("1", "2")), "no image id in common"),
        ([annotation(8, 1, 0)], "no image id in common"),
        ([annotation(1, 17, 0)], "category ids that .* does not know: 17"),
        (dataset(TRUTHS, names=("dog", "cat")), "category 1 is 'cat' in .* and 'dog' in"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            evaluate_mask_files(gt, save(content, "pred.json"))
        assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        pred = dataset([*TRUTHS[:2], annotation(9, 1, 0)], image_ids=(1, 9))
        metrics, _ = evaluate_mask_files(gt, save(pred, "pred.json"))
    assert "1 images of" in caplog.text
    assert "count as missed" in caplog.text
    assert metrics["AP50"] == 75
