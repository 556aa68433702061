"""COCO as the source: real annotations of 80 classes, as the registered dataset and in the recipes.

They are read from ``../shared/data/coco128`` beside the repository, where that is at hand.
"""

import csv
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import ROOT
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsis_d2 import add_wsis_config
from wsis_d2.data import ImageLabelMapper, register_builtin_datasets

SOURCE = ROOT.parent / "shared" / "data" / "coco128"
pytestmark = pytest.mark.skipif(
    not (SOURCE / "instances.json").is_file(), reason="there is no COCO beside the repository"
)

#: The recipes' networks, slim; images of 128 pixels; two iterations.
SMALL = (
    "classifier:MODEL.WEIGHTS '' mask_rcnn:MODEL.WEIGHTS '' "
    "MODEL.RESNETS.STEM_OUT_CHANNELS 32 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
    "MODEL.RESNETS.WIDTH_PER_GROUP 16 MODEL.RESNETS.NORM BN MODEL.FPN.OUT_CHANNELS 32 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 32 "
    "MODEL.RPN.POST_NMS_TOPK_TRAIN 50 MODEL.RPN.POST_NMS_TOPK_TEST 20 "
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "
    "TEST.DETECTIONS_PER_IMAGE 3 "
    "INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN (96,128) INPUT.IMAGE_LEVEL.SQUARE_SIZE 128 "
    "INPUT.IMAGE_LEVEL.CROP_SIZE 192 MODEL.IRNET.RADIUS 5 MODEL.IRNET.TEST_SIZE 0 "
    "CAM.SCALES (0.5,) SEEDS.NUM_WORKERS 1 DENSE_CRF.NUM_ITERS 1 "
    "PSEUDO_LABELS.IRNET.CENTROID_ITERS 30 PROPOSALS.BUILTIN.LONGEST_EDGE 100 "
    "INPUT.MIN_SIZE_TRAIN (128,) INPUT.MAX_SIZE_TRAIN 160 INPUT.MIN_SIZE_TEST 128 "
    "INPUT.MAX_SIZE_TEST 160 SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.001 "
    "DATALOADER.NUM_WORKERS 0 PSEUDO_LABELS.CLASS_THRESHOLD -100.0 "
    "PSEUDO_LABELS.PEAK_THRESHOLD -100.0 PSEUDO_LABELS.MAX_PEAKS 5"
).split()


def _arrange(root, num_images=None):
    """Lay the source out as COCO 2017, whose val is its train; returns the annotations."""
    content = json.loads((SOURCE / "instances.json").read_text())
    if num_images is not None:
        annotated = Counter(a["image_id"] for a in content["annotations"])
        content["images"] = [im for im in content["images"] if annotated[im["id"]]][:num_images]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    annotations = root / "coco" / "annotations"
    annotations.mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / "coco" / split).symlink_to(SOURCE / "images", target_is_directory=True)
        (annotations / f"instances_{split}.json").write_text(json.dumps(content))
    return content


def test_registered_labels_are_those_of_the_annotations(tmp_path):
    _arrange(tmp_path)
    name = "coco_2017_train_labels"
    register_builtin_datasets(str(tmp_path))
    try:
        dataset = DatasetCatalog.get(name)
    finally:
        register_builtin_datasets()
    classes = MetadataCatalog.get(name).thing_classes
    assert len(classes) == 80
    cfg = get_cfg()
    add_wsis_config(cfg)
    mapper = ImageLabelMapper(cfg, is_train=True)
    found = {}
    for dataset_dict in dataset:
        mapped = mapper(dataset_dict)
        assert not {"annotations", "instances"} & set(mapped)
        assert mapped["image"].dtype == torch.uint8
        labels = {classes[i] for i in mapped["image_labels"].tolist()}
        found[os.path.basename(mapped["file_name"])] = labels
    with open(SOURCE / "image_labels.csv", encoding="utf-8", newline="") as file:
        listed = {
            row["file_name"]: set(row["labels"].split(";"))
            for row in csv.DictReader(file)
            if row["labels"]
        }
    assert len(found) > 100
    assert found == listed


@pytest.mark.slow
@pytest.mark.parametrize("method", ["irnet", "wise"])
def test_recipe_gives_masks_with_cocos_own_category_ids(method, tmp_path):
    content = _arrange(tmp_path / "datasets", num_images=4)
    output = tmp_path / "output"
    completed = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "tools/run_pipeline.py"),
            *("--recipe", f"configs/coco/{method}/recipe.yaml"),
            *("--output", str(output), *SMALL),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "DETECTRON2_DATASETS": str(tmp_path / "datasets"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    labels = output / "pseudo_labels" / "pseudo_labels.json"
    exported = json.loads(labels.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert {c["id"]: c["name"] for c in exported["categories"]} == names
    assert max(names) == 90
    assert exported["annotations"]
    labelled = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
    assert {(a["image_id"], a["category_id"]) for a in exported["annotations"]} <= labelled

    truth = COCO(str(SOURCE / "instances.json"))
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "segmentation", "score")}
        for a in exported["annotations"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
    evaluation.evaluate()
    assert len(COCO(str(labels)).imgs) == 4
    metrics = json.loads((output / "metrics.json").read_text())
    assert 0 <= metrics["pseudo_labels"]["metrics"]["pseudo_labels"]["AP50"] <= 100
    assert "AP50" in metrics["mask_rcnn"]["metrics"]["segm"]
