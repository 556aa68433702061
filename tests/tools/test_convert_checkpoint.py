"""The command line of the conversion; what it converts is tested beside the engine."""

import pytest
import torch
from detectron2.modeling import build_model

from wsis_d2.engine import load_config
from wsis_d2.weights.published import to_published


@pytest.fixture(scope="module")
def weights(request):
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", "20"]
    path = request.config.rootpath / "configs" / "Base-CAM.yaml"
    return build_model(load_config(str(path), options)).state_dict()


def test_classes_come_from_a_dataset_or_from_the_command_line(tool_in_process, weights, tmp_path):
    published, output = tmp_path / "res50_cam.pth", tmp_path / "ours.pth"
    torch.save(to_published(weights), published)
    arguments = ("convert_checkpoint.py", "--input", published, "--output", output)
    code, _ = tool_in_process(*arguments, "--to", "wsis_d2", "--dataset", "voc_2012_train_aug")
    assert code == 0
    checkpoint = torch.load(output, weights_only=True)
    assert checkpoint["wsis_d2"]["classes"][:2] == ["aeroplane", "bicycle"]
    # Counters of batches are left out: nothing reads them.
    weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(checkpoint["model"][key], value) for key, value in weights.items())

    back = ("--input", output, "--output", tmp_path / "back.pth", "--to", "irn")
    assert tool_in_process("convert_checkpoint.py", *back)[0] == 0
    assert "stage1.0.weight" in torch.load(tmp_path / "back.pth", weights_only=True)

    code, message = tool_in_process(*arguments, "--to", "wsis_d2", "--classes", "cat", "dog")
    assert code == 2
    assert "has 20 classes, but 2 are named" in message
    code, message = tool_in_process(*arguments, "--to", "wsis_d2", "--dataset", "no_dataset")
    assert code == 2
    assert "dataset 'no_dataset' is not registered" in message
