"""Training, evaluation and pseudo labels from lower counts, through the tools."""

import json

import pytest
import torch
from conftest import ROOT
from detectron2.data import DatasetCatalog

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import load_config
from wsis_d2.engine.trainer import Trainer

CONFIGS = ROOT / "configs" / "shapes" / "wise_counts"
QUICK = (
    "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0 "
    "PSEUDO_LABELS.PEAK_THRESHOLD -100.0 MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.STEM_OUT_CHANNELS 8 "
    "MODEL.RESNETS.RES2_OUT_CHANNELS 8 MODEL.DENSITY.STAGE1_ITERS 1"
).split()


def test_trains_counts_and_labels(tool_in_process, tmp_path):
    options = ["OUTPUT_DIR", tmp_path, *QUICK]
    config = CONFIGS / "classifier.yaml"
    code, message = tool_in_process("train_net.py", "--config-file", config, *options)
    assert code == 0, message
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["model"]["num_steps"] == 2
    metrics = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert metrics[-1]["counts/mRMSE"] > 0
    assert 0 <= metrics[-1]["classification/mAP"] <= 100

    options += ["MODEL.WEIGHTS", tmp_path / "model_final.pth"]
    options += ["PROPOSALS.PATH", tmp_path / "proposals"]
    output = tmp_path / "labels.json"
    arguments = ["--config-file", CONFIGS / "pseudo_labels.yaml", "--output", output]
    code, message = tool_in_process("make_pseudo_labels.py", *arguments, *options)
    assert code == 0, message
    content = json.loads(output.read_text())
    assert content["info"]["max_count"] == 4
    # Two peaks per counted object at most, before suppression.
    for d in DatasetCatalog.get("shapes_train"):
        classes = [
            a["category_id"] for a in content["annotations"] if a["image_id"] == d["image_id"]
        ]
        for label, count in zip(d["image_labels"], d["image_counts"]):
            assert count > 4 or classes.count(label + 1) <= 2 * count


def test_truth_of_the_evaluation_is_not_cut_off(datasets_root, tmp_path):
    """A model that counts rightly has no error, also beyond what training may see."""
    register_builtin_datasets(str(datasets_root))
    options = ["DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "('shapes_train',)"]
    options += ["DATASETS.MAX_COUNT", "1"]
    cfg = load_config(str(CONFIGS / "classifier.yaml"), options)
    truth = {d["image_id"]: d for d in DatasetCatalog.get("shapes_train")}
    seen = []

    class Oracle(torch.nn.Module):
        def forward(self, inputs):
            (x,) = inputs
            seen.extend(x["image_counts"].tolist())
            counts = torch.zeros(5)
            d = truth[x["image_id"]]
            counts[d["image_labels"]] = torch.tensor(d["image_counts"], dtype=torch.float32)
            return [{"image_scores": (counts > 0).float(), "image_counts": counts}]

    results = Trainer.test(cfg, Oracle())
    assert set(seen) == {1, 2}
    assert results["counts"]["mRMSE"] == results["counts"]["mRMSE-nz"] == 0
    assert results["classification"]["mAP"] == 100


@pytest.mark.parametrize("labels", ["", "labels.csv"])
def test_labels_without_counts_stop_training(tool_in_process, datasets_root, tmp_path, labels):
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    image = next((datasets_root / "shapes" / "JPEGImages").iterdir())
    (folder / "a.jpg").write_bytes(image.read_bytes())
    (tmp_path / "labels.csv").write_text("file_name,labels\ncat/a.jpg,dog:2;cat\n")
    code, message = tool_in_process(
        *("train_net.py", "--config-file", CONFIGS / "classifier.yaml"),
        *("DATASETS.OWN_TRAIN.IMAGE_ROOT", tmp_path / "images"),
        *("DATASETS.OWN_TRAIN.LABELS", tmp_path / labels if labels else ""),
        *("DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "()"),
        *("OUTPUT_DIR", tmp_path / "out", *QUICK),
    )
    assert code == 2
    assert "label 'cat' of image" in message
    assert "has no count" in message
    assert "Traceback" not in message
