"""Regions to ignore in a file of pseudo labels: COCO's crowds, to stock code no instances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image
from pycocotools.coco import COCO

from wsis_d2.data import register_coco_json
from wsis_d2.evaluation import PseudoLabelWriter, evaluate_mask_files

NAME = "test_ignore_region_files"
SIZE = (20, 30)


@pytest.fixture
def labels(tmp_path):
    """Path of a file with two instances and two regions in the first of two images."""
    records = [
        {"file_name": str(tmp_path / f"{i}.png"), "image_id": i, "height": SIZE[0], "width": 30}
        for i in (1, 2)
    ]
    for record in records:
        Image.new("RGB", SIZE[::-1]).save(record["file_name"])
    DatasetCatalog.register(NAME, lambda: records)
    metadata = {"thing_classes": ["cat", "dog"], "image_root": str(tmp_path)}
    MetadataCatalog.get(NAME).set(thing_dataset_id_to_contiguous_id={4: 0, 9: 1}, **metadata)
    path = str(tmp_path / "labels.json")
    writer = PseudoLabelWriter(NAME, path, {})
    writer.process(records, [output(), output(empty=True)])
    counts = writer.evaluate()["pseudo_labels"]
    assert counts == {"images": 2, "images_with_labels": 1, "instances": 2}
    yield path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def output(empty=False):
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    masks[0, :5, :5], masks[1, 10:, 10:20], masks[2, 3:9, 20:], masks[3, 12:, 25:] = [True] * 4
    instances = Instances(SIZE, pred_masks=masks[:2], pred_classes=torch.tensor([0, 1]))
    instances.scores = torch.tensor([0.9, 0.8])
    regions = Instances(SIZE, pred_masks=masks[2:], pred_classes=torch.tensor([1, 0]))
    if empty:
        return {"instances": instances[:0], "ignore_regions": regions}
    return {"instances": instances, "ignore_regions": regions}


def test_regions_are_crowd_annotations_without_a_score(labels):
    coco = COCO(labels)
    crowds = coco.loadAnns(coco.getAnnIds([1], iscrowd=True))
    assert [a["category_id"] for a in crowds] == [9, 4]
    assert not any("score" in a for a in crowds)
    for annotation, mask in zip(crowds, output()["ignore_regions"].pred_masks.numpy()):
        assert (coco.annToMask(annotation) == mask).all()
        assert annotation["area"] == mask.sum()
    assert len(coco.getAnnIds([2], iscrowd=False)) == 0
    assert [a["id"] for a in coco.dataset["annotations"]] == [1, 2, 3, 4, 5, 6]


def test_they_are_no_instances_to_evaluation(labels, tmp_path):
    content = json.loads(Path(labels).read_text())
    truths = [a for a in content["annotations"] if not a["iscrowd"]]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({**content, "annotations": truths}))
    metrics, _ = evaluate_mask_files(path, labels)
    assert metrics["AP50"] == metrics["ABO"] == 100


def test_stock_detectron2_leaves_them_out_and_the_plugin_reads_scores(labels, tmp_path):
    register_coco_json(f"{NAME}_loaded", labels, str(tmp_path))
    try:
        record = DatasetCatalog.get(f"{NAME}_loaded")[0]
    finally:
        DatasetCatalog.remove(f"{NAME}_loaded")
        MetadataCatalog.remove(f"{NAME}_loaded")
    assert [a.get("score") for a in record["annotations"]] == [0.9, 0.8, None, None]
    mapper = DatasetMapper(
        True,
        augmentations=[T.NoOpTransform()],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert (np.asarray(instances.gt_masks.tensor) == output()["instances"].pred_masks.numpy()).all()
