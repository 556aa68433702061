"""RetinaMask as a second stage: from a JSON of masks to AP, by config alone."""

import torch
from conftest import QUICK, ROOT, check_instance_evaluation

from wsis_d2.engine import load_config

CONFIG = ROOT / "configs" / "shapes" / "retina_mask_R_50_slim_FPN.yaml"


def test_trains_on_pseudo_labels_and_evaluates(tool_in_process, true_labels, tmp_path):
    output = tmp_path / "out"
    options = ["DATASETS.PSEUDO.JSON", true_labels, "OUTPUT_DIR", output, *QUICK]
    # Whatever its score, so that there is something to evaluate.
    options += ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]
    arguments = ["--config-file", CONFIG]
    code, message = tool_in_process("train_net.py", *arguments, *options)
    assert code == 0, message

    checkpoint = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert checkpoint["mask_head.predictor.weight"].shape[0] == 5
    assert not torch.equal(checkpoint["box_loss.running_mean"], torch.full((4,), 0.11))
    check_instance_evaluation(output)


def test_number_of_classes_is_that_of_the_source(true_labels):
    cfg = load_config(str(CONFIG), ["DATASETS.PSEUDO.JSON", str(true_labels)])
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 5
