"""The instance evaluator: ids, images and files around the AP."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError
from wsis_d2.evaluation import InstanceMaskEvaluator

NAME = "test_instance_evaluator"


def square(x, side=8):
    mask = np.zeros((16, 40), dtype=np.uint8)
    mask[2 : 2 + side, x : x + side] = 1
    return mask


def gt_file(tmp_path, image_ids=(1, 2, 3)):
    annotations = []
    for image_id in image_ids:
        for category_id, x in ((5, 0), (11, 20)):
            rle = mask_utils.encode(np.asfortranarray(square(x)))
            rle["counts"] = rle["counts"].decode()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "iscrowd": 0,
                    "segmentation": rle,
                }
            )
    path = tmp_path / "gt.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": i, "height": 16, "width": 40} for i in image_ids],
                "annotations": annotations,
                "categories": [{"id": 5, "name": "cat"}, {"id": 11, "name": "dog"}],
            }
        )
    )
    return str(path)


def found(*boxes):
    """Instances from (x, contiguous class, score)."""
    instances = Instances((16, 40))
    masks = [torch.from_numpy(square(x)).bool() for x, _, _ in boxes]
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, 16, 40).bool()
    instances.pred_boxes = Boxes(torch.zeros(len(boxes), 4))
    instances.pred_classes = torch.tensor([c for _, c, _ in boxes], dtype=torch.int64)
    instances.scores = torch.tensor([s for _, _, s in boxes])
    return {"instances": instances}


@pytest.fixture
def metadata():
    DatasetCatalog.register(NAME, list)
    yield MetadataCatalog.get(NAME).set(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={5: 0, 11: 1}
    )
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("key", ["gt_json", "json_file"])
def test_metrics_in_detectron2_form(metadata, tmp_path, key):
    metadata.set(**{key: gt_file(tmp_path)})
    evaluator = InstanceMaskEvaluator(NAME, output_dir=str(tmp_path / "out"))
    evaluator.process([{"image_id": 1}], [found((0, 0, 0.9), (20, 1, 0.8))])
    evaluator.process([{"image_id": 2}], [found((0, 0, 0.7))])
    # Image 3 was not processed and 99 has no truth: neither counts.
    evaluator.process([{"image_id": 99}], [found((0, 0, 0.99))])
    result = evaluator.evaluate()["instance_masks"]
    assert result["AP50-cat"] == 100
    assert result["AP50-dog"] == result["ABO-dog"] == 50
    assert result["AP50"] == result["AP75"] == result["ABO"] == 75
    assert result["AP50-small"] == result["AP50-2-4 objects"] == 75
    written = json.loads((tmp_path / "out" / "instance_masks.json").read_text())
    assert written["AP50"] == 75
    assert written["by_size"]["large"]["AP50"] is None
    assert written["num_objects"] == 4


def test_same_result_in_any_order_of_images_with_equal_scores(metadata, tmp_path):
    metadata.gt_json = gt_file(tmp_path)
    outputs = [
        ({"image_id": 1}, found((0, 0, 0.5))),
        ({"image_id": 2}, found((30, 0, 0.5))),
        ({"image_id": 3}, found((20, 0, 0.5), (0, 0, 0.5))),
    ]
    results = []
    for order in (outputs, outputs[::-1], outputs[1:] + outputs[:1]):
        evaluator = InstanceMaskEvaluator(NAME)
        for input_, output in order:
            evaluator.process([input_], [output])
        results.append(evaluator.evaluate()["instance_masks"]["AP50"])
    assert results[0] == results[1] == results[2] > 0


def test_without_truth_or_predictions_there_are_no_metrics(metadata, tmp_path):
    evaluator = InstanceMaskEvaluator(NAME)
    evaluator.process([{"image_id": 1}], [found((0, 0, 0.9))])
    assert evaluator.evaluate() == {}
    metadata.gt_json = gt_file(tmp_path)
    assert InstanceMaskEvaluator(NAME).evaluate() == {}


def test_images_without_detections_count(metadata, tmp_path):
    metadata.gt_json = gt_file(tmp_path)
    evaluator = InstanceMaskEvaluator(NAME)
    evaluator.process([{"image_id": 1}], [found()])
    assert evaluator.evaluate()["instance_masks"]["AP25"] == 0


def test_errors(metadata, tmp_path):
    metadata.gt_json = str(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"none\.json"):
        InstanceMaskEvaluator(NAME)
    metadata.set(json_file=gt_file(tmp_path))
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(gt_json=gt_file(tmp_path))
    evaluator = InstanceMaskEvaluator(NAME)
    evaluator.process([{"image_id": "1"}], [found((0, 0, 0.9))])
    with pytest.raises(UserError, match="image ids"):
        evaluator.evaluate()
