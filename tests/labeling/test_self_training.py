"""Predictions as pseudo labels: filtered by image label and score, old labels where none is."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.labeling import SelfTraining, build_label_generator
from wsis_d2.labeling.self_training import LabelFile
from wsis_d2.proposals import MaskProposals

SIZE = (20, 30)


def rectangles(*corners):
    masks = torch.zeros(len(corners), *SIZE, dtype=torch.bool)
    for mask, (y1, x1, y2, x2) in zip(masks, corners):
        mask[y1:y2, x1:x2] = True
    return masks


def instances(masks, scores, classes):
    boxes = Boxes(torch.zeros(len(masks), 4))
    classes, scores = torch.tensor(classes, dtype=torch.int64), torch.tensor(scores)
    return Instances(SIZE, pred_boxes=boxes, scores=scores, pred_classes=classes, pred_masks=masks)


class Network(torch.nn.Module):
    """Gives fixed predictions and remembers what it was given."""

    def __init__(self, predictions):
        super().__init__()
        self.predictions = predictions

    def forward(self, batched_inputs):
        self.inputs = batched_inputs
        return [{"instances": self.predictions} for _ in batched_inputs]


def label(predictions, image_labels, old_labels=None, min_score=0.5, proposals=None):
    generator = SelfTraining(
        network=Network(predictions),
        resize=T.ResizeShortestEdge([40, 40], 1000),
        min_score=min_score,
        nms_threshold=0.5,
        proposals=proposals,
        old_labels=old_labels,
    )
    image = torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8)
    x = {"image": image, "image_labels": torch.tensor(image_labels), "image_id": 7}
    (output,) = generator([{**x, "height": SIZE[0], "width": SIZE[1]}])
    assert generator.network.inputs[0]["image"].shape == (3, 40, 60)
    return output["instances"]


PREDICTIONS = instances(
    rectangles((0, 0, 8, 8), (10, 10, 20, 20), (0, 0, 8, 9), (0, 0, 8, 8), (5, 15, 12, 25)),
    [0.7, 0.9, 0.95, 0.8, 0.3],
    [0, 1, 0, 2, 1],
)


def test_class_score_and_duplicates():
    result = label(PREDICTIONS, [0, 1])
    # Class 2 is not in the image label, one score is low, two masks of class 0 are nearly the same.
    assert result.scores.tolist() == pytest.approx([0.95, 0.9])
    assert result.pred_classes.tolist() == [0, 1]
    assert torch.equal(result.pred_masks, PREDICTIONS.pred_masks[[2, 1]])
    assert label(PREDICTIONS, [0, 1, 2]).pred_classes.tolist() == [0, 1, 2]
    assert len(label(PREDICTIONS, [0, 1], min_score=0.2)) == 3
    assert len(label(PREDICTIONS[:0], [0, 1])) == 0


class Proposals:
    def get(self, x):
        assert x["image_id"] == 7
        return MaskProposals.from_masks(rectangles((0, 0, 9, 9), (9, 9, 20, 20)).numpy(), [1, 0.5])


def test_masks_snap_to_proposals_before_duplicates_go():
    two = instances(rectangles((0, 0, 9, 5), (0, 4, 9, 9)), [0.8, 0.9], [1, 1])
    assert len(label(two, [1])) == 2
    result = label(two, [1], proposals=Proposals())
    assert result.scores.tolist() == pytest.approx([0.9])
    assert torch.equal(result.pred_masks, rectangles((0, 0, 9, 9)))
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 9, 9]]


@pytest.fixture
def old_file(tmp_path):
    """Pseudo labels of image 7: classes 0, 1, 1 and a crowd; the category ids are 3, 5, 8."""

    def annotation(number, corners, category, iscrowd=0):
        rle = mask_utils.encode(np.asfortranarray(rectangles(corners)[0].numpy().astype(np.uint8)))
        return {
            "id": number,
            "image_id": 7,
            "category_id": category,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            "iscrowd": iscrowd,
            **({} if iscrowd else {"score": number / 10}),
        }

    path = tmp_path / "old.json"
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            annotation(1, (0, 0, 3, 3), 3),
            annotation(2, (4, 4, 9, 9), 5),
            annotation(3, (4, 10, 9, 20), 5),
            annotation(4, (0, 0, 20, 30), 8, iscrowd=1),
        ],
        "categories": [{"id": 5, "name": "b"}, {"id": 8, "name": "c"}, {"id": 3, "name": "a"}],
    }
    path.write_text(json.dumps(content))
    return str(path)


def test_a_class_without_a_prediction_keeps_its_old_labels(old_file):
    result = label(PREDICTIONS[:1], [0, 1, 2], LabelFile(old_file))
    assert result.pred_classes.tolist() == [0, 1, 1]
    assert result.scores.tolist() == pytest.approx([0.7, 0.2, 0.3])
    expected = rectangles((4, 4, 9, 9), (4, 10, 9, 20))
    assert torch.equal(result.pred_masks, torch.cat([PREDICTIONS.pred_masks[:1], expected]))
    assert result.pred_boxes.tensor[1:].tolist() == [[4, 4, 9, 9], [10, 4, 20, 9]]
    nothing = label(PREDICTIONS[:0], [0, 1], LabelFile(old_file))
    assert nothing.pred_classes.tolist() == [0, 1, 1]


@pytest.mark.parametrize("content", ["{", "[]", '{"categories": [], "annotations": [{}]}'])
def test_damaged_old_labels(tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(UserError, match="OLD_LABELS"):
        LabelFile(str(path))
    with pytest.raises(UserError, match="OLD_LABELS"):
        LabelFile(str(tmp_path / "missing.json"))


def test_old_labels_of_another_dataset(old_file):
    with pytest.raises(UserError, match="another size"):
        LabelFile(old_file).get({"image_id": 7, "height": 30, "width": 20})


def test_from_a_config():
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.MASK_ON, cfg.MODEL.RESNETS.DEPTH = "cpu", True, 50
    cfg.PSEUDO_LABELS.GENERATOR = "SelfTraining"
    generator = build_label_generator(cfg)
    assert type(generator.network).__name__ == "GeneralizedRCNN"
    assert (generator.min_score, generator.old_labels) == (0.5, None)
