"""The second stage on noisy labels, as a user runs it: self-training, regions, refinement."""

import json
import shutil

import pytest
from conftest import QUICK

pytestmark = pytest.mark.slow


def test_self_training_goes_on_from_a_finished_recipe(wise_output, run_tool, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(wise_output, output)
    recipe = ("--recipe", "configs/shapes/wise/self_training.yaml", "--output", output)
    completed = run_tool("run_pipeline.py", *recipe, *QUICK, timeout=600)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert completed.stdout.count("unchanged, skipped") == 4
    results = json.loads((output / "metrics.json").read_text())
    assert list(results)[4:] == ["pseudo_labels_2", "mask_rcnn_2", "report"]
    assert "AP50" in results["mask_rcnn_2"]["metrics"]["instance_masks"]
    first = json.loads((output / "pseudo_labels" / "pseudo_labels.json").read_text())
    second = json.loads((output / "pseudo_labels_2" / "pseudo_labels.json").read_text())
    # After two iterations nothing is found with certainty: the old labels stay, to the last mask.
    assert [a["segmentation"] for a in second["annotations"]] == [
        a["segmentation"] for a in first["annotations"]
    ]
    assert "old_labels_sha256" in second["info"]
    assert str(tmp_path) not in json.dumps(second["info"])


def test_ignore_regions_weights_and_refinement(wise_output, run_tool, tmp_path):
    weights = ("MODEL.WEIGHTS", wise_output / "classifier" / "model_final.pth")
    proposals = ("PROPOSALS.PATH", wise_output / "proposals" / "masks")
    labels = tmp_path / "labels.json"
    completed = run_tool(
        "make_pseudo_labels.py",
        *("--config-file", "configs/shapes/wise/pseudo_labels.yaml", "--output", labels),
        *(*weights, *proposals, *QUICK, "PSEUDO_LABELS.IGNORE_THRESHOLD", "0.5"),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    plain = json.loads((wise_output / "pseudo_labels" / "pseudo_labels.json").read_text())
    annotations = json.loads(labels.read_text())["annotations"]
    instances = [a["segmentation"] for a in annotations if not a["iscrowd"]]
    assert instances == [a["segmentation"] for a in plain["annotations"]]
    assert len(instances) < len(annotations)

    config = ("--config-file", "configs/shapes/mask_rcnn_R_50_slim_FPN_noise_aware.yaml")
    common = ("DATASETS.PSEUDO.JSON", labels, "OUTPUT_DIR", tmp_path / "model", *QUICK, "SEED", "0")
    completed = run_tool(
        "train_net.py",
        *(*config, *common, *weights, "DATASETS.TEST", "()"),
        *("DATASETS.PSEUDO.SCORE_WEIGHTS", "True", "DATASETS.PSEUDO.IGNORE_REGIONS", "True"),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    masks = []
    for refine in ("False", "True"):
        completed = run_tool(
            "train_net.py",
            *(*config, "--eval-only", *common, "PROPOSALS.PATH", tmp_path / "proposals"),
            *("MODEL.WEIGHTS", tmp_path / "model" / "model_final.pth"),
            *("TEST.REFINE_WITH_PROPOSALS", refine, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        (results,) = (tmp_path / "model" / "inference").rglob("coco_instances_results.json")
        masks.append([detection["segmentation"] for detection in json.loads(results.read_text())])
    assert len(masks[0]) == len(masks[1]) > 0
    assert masks[0] != masks[1]
