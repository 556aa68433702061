"""Mask2Former as a second stage: from a JSON of masks to AP, by config alone."""

import pytest
import torch
from conftest import QUICK, ROOT, check_instance_evaluation

from wsis_d2.engine import load_config

pytest.importorskip("transformers")

CONFIG = ROOT / "configs" / "shapes" / "mask2former_slim.yaml"


def test_trains_on_pseudo_labels_and_evaluates(tool_in_process, true_labels, tmp_path):
    output = tmp_path / "out"
    options = ["DATASETS.PSEUDO.JSON", true_labels, "OUTPUT_DIR", output, *QUICK]
    code, message = tool_in_process("train_net.py", "--config-file", CONFIG, *options)
    assert code == 0, message

    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["wsis_d2"]["meta_architecture"] == "HFMask2Former"
    assert checkpoint["model"]["head.class_predictor.weight"].shape[0] == 5 + 1
    check_instance_evaluation(output)


def test_number_of_classes_is_that_of_the_source(true_labels):
    cfg = load_config(str(CONFIG), ["DATASETS.PSEUDO.JSON", str(true_labels)])
    assert cfg.MODEL.MASK2FORMER.NUM_CLASSES == 5
