"""Mask2Former as a second stage: from a JSON of masks to AP, by config alone."""

import json

import pytest
import torch
from conftest import ROOT
from detectron2.data.datasets.coco import convert_to_coco_json

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import load_config

pytest.importorskip("transformers")

CONFIG = ROOT / "configs" / "shapes" / "mask2former_slim.yaml"
QUICK = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"]


@pytest.fixture
def pseudo_labels(datasets_root, tmp_path):
    """The true masks in the place of pseudo labels."""
    register_builtin_datasets(str(datasets_root))
    path = tmp_path / "labels.json"
    convert_to_coco_json("shapes_train_instances", str(path))
    return path


def test_trains_on_pseudo_labels_and_evaluates(tool_in_process, pseudo_labels, tmp_path):
    output = tmp_path / "out"
    options = ["DATASETS.PSEUDO.JSON", pseudo_labels, "OUTPUT_DIR", output, *QUICK]
    code, message = tool_in_process("train_net.py", "--config-file", CONFIG, *options)
    assert code == 0, message

    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["wsis_d2"]["meta_architecture"] == "HFMask2Former"
    assert checkpoint["model"]["head.class_predictor.weight"].shape[0] == 5 + 1
    metrics = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert 0 <= metrics["segm/AP"] <= 100
    assert 0 <= metrics["instance_masks/AP50"] <= 100
    (results,) = (output / "inference").rglob("coco_instances_results.json")
    detections = json.loads(results.read_text())
    assert detections
    assert all(d["segmentation"]["size"] == [128, 128] for d in detections)


def test_number_of_classes_is_that_of_the_source(pseudo_labels):
    cfg = load_config(str(CONFIG), ["DATASETS.PSEUDO.JSON", str(pseudo_labels)])
    assert cfg.MODEL.MASK2FORMER.NUM_CLASSES == 5
