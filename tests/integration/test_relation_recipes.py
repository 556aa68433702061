"""The IRNet and AffinityNet recipes, whole, on a tiny Shapes: every stage in its own process."""

import json

import numpy as np
import pytest
from conftest import QUICK
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from wsis_d2.data import read_label_map

STAGES = {
    "irnet": ["classifier", "cams", "seeds", "irnet", "pseudo_labels", "mask_rcnn", "report"],
    "affinitynet": [
        *("classifier", "cams", "seeds", "affinitynet", "pseudo_labels", "sem_seg", "report")
    ],
}


@pytest.fixture(scope="module", params=list(STAGES))
def finished(request, run_tool, tmp_path_factory):
    """The method, its output folder, and how to run the recipe again."""
    output = tmp_path_factory.mktemp(request.param)

    def run(*arguments):
        recipe = f"configs/shapes/{request.param}/recipe.yaml"
        flags = ("--recipe", recipe, "--output", output)
        return run_tool("run_pipeline.py", *flags, *arguments, *QUICK)

    completed = run()
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    return request.param, output, run


@pytest.mark.slow
def test_every_stage_leaves_its_results(finished):
    method, output, _ = finished
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics) == STAGES[method]
    assert 0 <= metrics["cams"]["metrics"]["cams"]["mIoU"] <= 100
    assert "fg precision" in metrics["seeds"]["metrics"]["seeds"]
    labels = metrics["pseudo_labels"]["metrics"]
    assert {"AP50", "ABO"} <= set(labels["pseudo_labels"])
    assert 0 <= labels["pseudo_sem_seg"]["mIoU"] <= 100
    last = metrics[STAGES[method][-2]]["metrics"]
    assert "mIoU" in last["sem_seg"] if method == "affinitynet" else "AP50" in last["segm"]

    report = (output / "report.html").read_text()
    steps = {
        "irnet": ["Class boundaries", "Displacements", "Clusters", "Instance CAMs"],
        "affinitynet": ["Affinity features", "Labels after the walk", "Segmentation network"],
    }
    for step in ("CAM", "Seeds", "Random walk", *steps[method]):
        assert f'<p class="step">{step}</p>' in report


@pytest.mark.slow
def test_labels_are_a_coco_file_and_label_maps_of_labelled_classes(finished):
    _, output, _ = finished
    coco = COCO(str(output / "pseudo_labels" / "pseudo_labels.json"))
    assert len(coco.imgs) == 16
    folder = output / "pseudo_labels" / "pseudo_labels_sem_seg"
    assert len(list(folder.rglob("*.png"))) == 16
    num_classes = len(MetadataCatalog.get("shapes_train").thing_classes)
    for image in coco.imgs.values():
        label_map = read_label_map(folder / image["file_name"].replace(".jpg", ".png"))
        assert label_map.shape == (image["height"], image["width"])
        assert set(np.unique(label_map)) <= {*range(num_classes + 1), 255}


@pytest.mark.slow
def test_a_second_run_does_nothing(finished):
    method, _, run = finished
    completed = run("--resume")
    assert completed.returncode == 0
    assert completed.stdout.count("unchanged, skipped") == len(STAGES[method])
