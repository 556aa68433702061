"""Masks that are drawn anew from candidates whenever an image is loaded for training."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from wsis_d2 import add_wsis_config
from wsis_d2.data import InstanceMapper, register_own_datasets
from wsis_d2.errors import UserError

SIZE = (24, 32)
# Boxes (y0, x0, y1, x1) and weights of each object's candidates.
OBJECTS = (
    (((0, 0, 6, 8), 0.5), ((0, 0, 12, 16), 0.3), ((2, 3, 5, 5), 0.2)),
    (((10, 20, 20, 30), 0.9), ((12, 20, 20, 28), 0.1)),
)


def _rle(box):
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[box[0] : box[2], box[1] : box[3]] = 1
    rle = mask_utils.encode(mask)
    return {"size": list(SIZE), "counts": rle["counts"].decode()}


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


@pytest.fixture
def pseudo_labels(tmp_path):
    """A COCO file with two objects of several candidates each."""
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "a.png")
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": _rle(candidates[0][0]),
            "bbox": mask_utils.toBbox(_rle(candidates[0][0])).tolist(),
            "area": _area(candidates[0][0]),
            "score": 0.5,
            "candidates": [{"segmentation": _rle(box), "weight": w} for box, w in candidates],
        }
        for i, candidates in enumerate(OBJECTS, start=1)
    ]
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def cfg(pseudo_labels):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.DATASETS.PSEUDO.NAME = "pseudo_labels_of_the_test"
    cfg.DATASETS.PSEUDO.JSON = str(pseudo_labels)
    cfg.DATASETS.PSEUDO.IMAGE_ROOT = str(pseudo_labels.parent)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE[0],)
    cfg.INPUT.RANDOM_FLIP = "none"
    yield cfg
    DatasetCatalog.pop("pseudo_labels_of_the_test", None)


def _dataset(cfg):
    register_own_datasets(cfg)
    return DatasetCatalog.get(cfg.DATASETS.PSEUDO.NAME)


def test_stock_readers_ignore_the_candidates(pseudo_labels):
    coco = COCO(str(pseudo_labels))
    for annotation, candidates in zip(coco.loadAnns([1, 2]), OBJECTS, strict=True):
        assert coco.annToMask(annotation).sum() == _area(candidates[0][0])
    (record,) = load_coco_json(str(pseudo_labels), str(pseudo_labels.parent))
    assert [set(a) for a in record["annotations"]] == [
        {"iscrowd", "bbox", "category_id", "segmentation", "bbox_mode"}
    ] * 2


def test_masks_are_drawn_in_proportion_to_the_weights(cfg):
    cfg.DATASETS.PSEUDO.SAMPLE_CANDIDATES = True
    (record,) = _dataset(cfg)
    mapper = InstanceMapper(cfg, is_train=True)
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        drawn = [mapper(record)["instances"] for _ in range(500)]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    for i, candidates in enumerate(OBJECTS):
        boxes = torch.stack([instances.gt_boxes.tensor[i] for instances in drawn])
        areas = torch.stack([instances.gt_masks.tensor[i].sum() for instances in drawn])
        for (y0, x0, y1, x1), weight in candidates:
            is_this = (boxes == torch.tensor([x0, y0, x1, y1])).all(1)
            assert is_this.float().mean() == pytest.approx(weight, abs=0.07)
            assert (areas[is_this] == _area((y0, x0, y1, x1))).all()
    # Objects are drawn independently of each other.
    both_first = [
        int(x.gt_masks.tensor[0].sum()) == 48 and int(x.gt_masks.tensor[1].sum()) == 100
        for x in drawn
    ]
    assert np.mean(both_first) == pytest.approx(0.45, abs=0.07)
    assert len(record["annotations"][0]["candidates"]) == 3  # the dataset stays as it was


def test_without_the_option_the_mask_is_the_chosen_one(cfg):
    (record,) = _dataset(cfg)
    instances = InstanceMapper(cfg, is_train=True)(record)["instances"]
    assert instances.gt_masks.tensor.flatten(1).sum(1).tolist() == [48, 100]
    assert "candidates" not in record["annotations"][0]


def test_labels_without_candidates_are_named(cfg, pseudo_labels):
    content = json.loads(pseudo_labels.read_text())
    del content["annotations"][1]["candidates"]
    pseudo_labels.write_text(json.dumps(content))
    cfg.DATASETS.PSEUDO.SAMPLE_CANDIDATES = True
    with pytest.raises(UserError, match="labels.json.*'candidates'"):
        _dataset(cfg)
