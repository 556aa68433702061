"""Other people's projects: scripts in a foreign folder that only import the package.

The scripts are in ``foreign/``; each is copied away and run there in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO

from wsis_d2.data import ground_truth_json, register_builtin_datasets
from wsis_d2.engine import (
    load_config,
    make_cams,
    make_pseudo_labels,
    make_seeds,
    setup,
    train,
)

SCRIPTS = Path(__file__).parent / "foreign"


@pytest.fixture
def run_foreign(tmp_path, datasets_root):
    """Run a script of ``foreign/`` from an empty folder; returns what its last line says."""

    def run(name, *arguments):
        folder = tmp_path / "project"
        shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
        completed = subprocess.run(
            [sys.executable, "-W", "ignore", name, *map(str, arguments)],
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "DETECTRON2_DATASETS": str(datasets_root),
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        return json.loads(completed.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def irnet_labels(datasets_root, tmp_path_factory):
    """Pseudo labels of the tiny Shapes, through all stages of IRNet; the classifier beside them."""
    output = tmp_path_factory.mktemp("irnet_labels")
    register_builtin_datasets(str(datasets_root))

    def config(name, *options):
        quick = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0".split()
        quick += ["CAM.PATH", str(output / "cams"), "SEEDS.PATH", str(output / "seeds")]
        cfg = load_config(
            str(ROOT / "configs" / "shapes" / "irnet" / name),
            [
                *quick,
                "CAM.PATH",
                str(output / "cams"),
                "SEEDS.PATH",
                str(output / "seeds"),
                *options,
            ],
        )
        cfg.OUTPUT_DIR = str(output / name.removesuffix(".yaml"))
        setup(cfg, verbose=False)
        return cfg

    train(config("classifier.yaml"))
    classifier = str(output / "classifier" / "model_final.pth")
    make_cams(config("seeds.yaml", "MODEL.WEIGHTS", classifier))
    make_seeds(config("seeds.yaml", "SEEDS.NUM_WORKERS", "1"))
    train(config("irnet.yaml", "MODEL.WEIGHTS", classifier))
    weights = str(output / "irnet" / "model_final.pth")
    json_file = str(output / "pseudo_labels.json")
    make_pseudo_labels(config("pseudo_labels.yaml", "MODEL.WEIGHTS", weights), json_file)
    paths = {
        "json": json_file,
        "classifier": classifier,
        "images": MetadataCatalog.get("shapes_train").image_root,
        "image": DatasetCatalog.get("shapes_val")[0]["file_name"],
        "true_json": ground_truth_json("shapes_val"),
        "true_images": MetadataCatalog.get("shapes_val").image_root,
    }
    register_builtin_datasets()
    return paths


@pytest.mark.slow
def test_plain_training_loop_learns_from_masks_of_irnet(irnet_labels, run_foreign, tmp_path):
    labels = COCO(irnet_labels["json"])
    assert len(labels.imgs) == 16
    assert labels.anns
    paths = [irnet_labels[key] for key in ("json", "images", "true_json", "true_images")]
    output = tmp_path / "output"
    output.mkdir()
    printed = run_foreign("plain_loop.py", *paths, output)
    losses = printed["losses"]
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])
    assert {"bbox", "segm"} == set(printed["results"])
    assert 0 <= printed["results"]["segm"]["AP50"] <= 100
    assert (output / "model_final.pth").is_file()
    # The middle checkpoint goes on where it was.
    (output / "last_checkpoint").write_text("model_0000005.pth")
    assert len(run_foreign("plain_loop.py", *paths, output, "--resume")["losses"]) == 6


@pytest.mark.slow
def test_default_trainer_and_default_predictor(irnet_labels, run_foreign, tmp_path):
    paths = [irnet_labels[key] for key in ("json", "images", "classifier", "image")]
    output = tmp_path / "output"
    output.mkdir()
    printed = run_foreign("default_trainer.py", *paths, output)
    assert 0 < printed["instances"] <= 5
    assert len(printed["image_scores"]) == 5
    assert all(0 <= score <= 1 for score in printed["image_scores"])


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cam_classifier_R_50_slim", "mask_rcnn_R_50_slim_FPN"])
def test_lazy_training_loop(config, irnet_labels, run_foreign, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    overrides = ["train.max_iter=2", f"train.output_dir={output}"]
    overrides += ["dataloader.train.num_workers=0", "dataloader.train.total_batch_size=4"]
    if config.startswith("mask_rcnn"):
        overrides.append(f"dataloader.train.dataset.json_file={irnet_labels['json']}")
        overrides.append("model.roi_heads.box_predictor.test_score_thresh=0.0")
    results = run_foreign(
        "lazy_loop.py", ROOT / "configs" / "lazy" / "shapes" / f"{config}.py", *overrides
    )
    assert set(results) >= ({"segm"} if config.startswith("mask_rcnn") else {"classification"})
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 1


OUTPUTS = {
    "AffinityNet": ["features"],
    "CAMClassifier": ["image_scores"],
    "DensityPRM": ["image_counts", "image_scores"],
    "HFMask2Former": ["instances"],
    "IRNet": ["boundary", "displacement"],
    "PRMClassifier": ["image_scores"],
    "RetinaMask": ["instances"],
}


@pytest.mark.slow
def test_every_meta_architecture_is_built_trained_and_run(run_foreign):
    printed = run_foreign("build_models.py")
    assert {name: result["outputs"] for name, result in printed.items()} == OUTPUTS
    for result in printed.values():
        losses = torch.tensor(list(result["losses"].values()))
        assert losses.isfinite().all()
        assert losses.sum() > 0
        assert result["gradients"] > 0
