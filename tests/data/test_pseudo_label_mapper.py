"""Loss weights and regions to ignore, from the dataset's dicts to the training instances."""

import copy

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BoxMode, Instances
from detectron2.utils.env import seed_all_rng
from pycocotools import mask as mask_utils

from wsis_d2 import add_wsis_config
from wsis_d2.data import ImageRegion, PseudoLabelMapper, add_loss_weights

SIZE = (20, 30)


def annotation(mask, category=0, iscrowd=0, **more):
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "bbox": mask_utils.toBbox(rle).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "segmentation": rle,
        "iscrowd": iscrowd,
        **more,
    }


def rectangle(y1, x1, y2, x2):
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))
    return {
        "file_name": str(path),
        "image_id": 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": [
            annotation(rectangle(0, 0, 5, 5), 1, loss_weight=0.5),
            annotation(rectangle(3, 20, 9, 28), 0, iscrowd=1, loss_weight=1.0),
            annotation(rectangle(0, 0, 0, 0), 1, loss_weight=7.0),  # empty: is dropped
            annotation(rectangle(10, 10, 20, 20), 2, loss_weight=1.5),
            annotation(rectangle(0, 18, 4, 22), 0, iscrowd=1, loss_weight=1.0),
        ],
    }


def config(flip="none", ignore=True, scale=1):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.RANDOM_FLIP = "bitmask", flip
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (SIZE[0] * scale,), 1000
    cfg.MODEL.MASK_ON = True
    cfg.DATASETS.PSEUDO.IGNORE_REGIONS = ignore
    return cfg


def test_weights_go_with_their_instances_and_crowds_become_a_region(record):
    before = copy.deepcopy(record)
    output = PseudoLabelMapper(config(), is_train=True)(record)
    instances = output["instances"]
    assert "annotations" not in output
    assert instances.gt_classes.tolist() == [1, 2]
    assert instances.gt_weights.tolist() == [0.5, 1.5]
    expected = rectangle(3, 20, 9, 28) | rectangle(0, 18, 4, 22)
    assert (instances.gt_ignore.mask.numpy() == expected).all()
    assert len(instances.gt_ignore) == 2
    assert str(record) == str(before)


def test_the_region_is_transformed_with_the_image(record):
    seed_all_rng(0)
    mapper = PseudoLabelMapper(config(flip="horizontal", scale=2), is_train=True)
    expected = (rectangle(3, 20, 9, 28) | rectangle(0, 18, 4, 22)).repeat(2, 0).repeat(2, 1)
    flips = set()
    for _ in range(20):
        instances = mapper(record)["instances"]
        flipped = instances.gt_boxes.tensor[0, 0].item() > 0  # the first object is at the left
        flips.add(flipped)
        region = instances.gt_ignore.mask.numpy()
        assert (region == (expected[:, ::-1] if flipped else expected)).all()
    assert flips == {True, False}


def test_without_crowds_the_region_is_empty_and_without_the_key_there_is_none(record):
    record["annotations"] = [a for a in record["annotations"] if not a["iscrowd"]]
    instances = PseudoLabelMapper(config(), is_train=True)(record)["instances"]
    assert not instances.gt_ignore.mask.any()
    for a in record["annotations"]:
        del a["loss_weight"]
    instances = PseudoLabelMapper(config(ignore=False), is_train=True)(record)["instances"]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks"}


def test_an_image_region_is_a_field_of_instances():
    mask = torch.rand(SIZE) > 0.5
    instances = Instances(SIZE, x=torch.arange(5), gt_ignore=ImageRegion(mask, 5))
    for index in (slice(1, 4), torch.tensor([3, 0]), torch.arange(5) > 2, slice(0, 0)):
        chosen = instances[index]
        assert len(chosen.gt_ignore) == len(chosen.x)
        assert chosen.gt_ignore.mask is mask
    assert instances.to("cpu").gt_ignore.mask.shape == SIZE


def test_loss_weights_have_the_mean_one_in_each_class():
    def scored(*pairs):
        return {"annotations": [{"category_id": c, "score": s, "iscrowd": 0} for c, s in pairs]}

    dataset = [scored((0, 0.2), (1, 90.0)), scored((0, 0.6)), scored(), scored((1, 30.0), (2, 0.0))]
    dataset[2]["annotations"] = [{"category_id": 0, "iscrowd": 1}, {"category_id": 3}]
    weights = [a["loss_weight"] for d in add_loss_weights(dataset) for a in d["annotations"]]
    assert weights[:3] == pytest.approx([0.5, 1.5, 1.5])
    assert weights[4:] == pytest.approx([1.0, 0.5, 1.0])  # a score that is missing, that is 0
    assert "loss_weight" not in dataset[0]["annotations"][0]
