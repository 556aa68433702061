"""The whole WISE recipe on a tiny Shapes, as a user runs it, and what others do with the labels."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import QUICK, ROOT
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from pycocotools.coco import COCO

from wsis_d2.data import register_builtin_datasets

pytestmark = pytest.mark.slow
STAGES = ["classifier", "proposals", "pseudo_labels", "mask_rcnn", "report"]


@pytest.fixture(autouse=True)
def _shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))


def _labels(wise_output):
    return wise_output / "pseudo_labels" / "pseudo_labels.json"


def test_every_stage_leaves_its_result(wise_output):
    results = json.loads((wise_output / "metrics.json").read_text())
    assert list(results) == STAGES
    assert 0 <= results["classifier"]["metrics"]["classification"]["mAP"] <= 100
    assert 0 <= results["pseudo_labels"]["metrics"]["pseudo_labels"]["AP50"] <= 100
    assert "AP50" in results["mask_rcnn"]["metrics"]["instance_masks"]
    assert all(r["seconds"] > 0 for r in results.values())
    html = (wise_output / "report.html").read_text()
    # Failure cases, step by step, held-out images; and pictures for review.
    assert html.count("<article>") == 3 * 2
    (review,) = re.findall(r'id="review-data">(.*?)</script>', html)
    assert len(json.loads(review)["images"]) == 4
    assert html.count("data:image/") > 3 * 2 * 3 + 4
    assert "http://" not in html
    assert "https://" not in html


def test_unchanged_stages_are_skipped_and_changed_ones_run(wise_output, run_tool):
    recipe = ("--recipe", "configs/shapes/wise/recipe.yaml", "--output", wise_output)
    before = _labels(wise_output).stat().st_mtime_ns
    completed = run_tool("run_pipeline.py", *recipe, *QUICK)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("unchanged, skipped") == len(STAGES)
    assert _labels(wise_output).stat().st_mtime_ns == before
    assert completed.stdout.strip().endswith(str(wise_output / "report.html"))


def test_labels_load_in_pycocotools_and_detectron2(wise_output, datasets_root):
    path = str(_labels(wise_output))
    coco = COCO(path)
    assert len(coco.imgs) == 16
    assert len(coco.anns) > 0
    names = [c["name"] for c in coco.loadCats(coco.getCatIds())]
    assert names == MetadataCatalog.get("shapes_train").thing_classes
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"] > 0
    info = coco.dataset["info"]
    assert info["generator"] == "WISE"
    assert len(info["weights_sha256"]) == 64
    assert info["config"]["PSEUDO_LABELS"]["SELECTOR"] == "BestObjectness"
    dicts = load_coco_json(path, str(datasets_root / "shapes" / "JPEGImages"), "labels_of_the_test")
    assert sum(len(d["annotations"]) for d in dicts) == len(coco.anns)
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    DatasetCatalog.pop("labels_of_the_test", None)


def test_only_labelled_classes_are_exported(wise_output):
    coco = COCO(str(_labels(wise_output)))
    ids = MetadataCatalog.get("shapes_train").thing_dataset_id_to_contiguous_id
    for d in DatasetCatalog.get("shapes_train"):
        found = {ids[a["category_id"]] for a in coco.imgToAnns[d["image_id"]]}
        assert found <= set(d["image_labels"])


def test_stock_trainer_trains_on_the_labels(wise_output, datasets_root, tmp_path):
    """Detectron2 alone: no import of this package, its own config, trainer and registration."""
    script = tmp_path / "stock.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from detectron2 import model_zoo
            from detectron2.config import get_cfg
            from detectron2.data import MetadataCatalog
            from detectron2.data.datasets import register_coco_instances
            from detectron2.engine import DefaultTrainer

            json_file, images, output = sys.argv[1:]
            register_coco_instances("pseudo", {}, json_file, images)
            cfg = get_cfg()
            name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
            cfg.merge_from_file(model_zoo.get_config_file(name))
            cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("pseudo",), ()
            cfg.INPUT.MASK_FORMAT = "bitmask"
            cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 64
            cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
            cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
            cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
            cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 2, 2, 1e-4
            cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = 0, output
            trainer = DefaultTrainer(cfg)
            trainer.train()
            assert trainer.iter == 2 - 1 or trainer.iter == 2
            assert len(MetadataCatalog.get("pseudo").thing_classes) == 5
            assert not any(m.startswith("wsis_d2") for m in sys.modules)
            """
        )
    )
    images = datasets_root / "shapes" / "JPEGImages"
    output = tmp_path / "output"
    command = [sys.executable, "-W", "ignore", str(script), str(_labels(wise_output))]
    completed = subprocess.run(
        [*command, str(images), str(output)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert (output / "model_final.pth").is_file()


def _label_options(wise_output):
    return (
        *("MODEL.WEIGHTS", wise_output / "classifier" / "model_final.pth"),
        *("PROPOSALS.PATH", wise_output / "proposals" / "masks"),
        *QUICK,
    )


def test_two_processes_write_the_same_bytes(wise_output, run_tool, tmp_path):
    output = tmp_path / "labels.json"
    completed = run_tool(
        "make_pseudo_labels.py",
        *("--config-file", "configs/shapes/wise/pseudo_labels.yaml", "--output", output),
        *("--num-gpus", 2, "--dist-url", "auto", *_label_options(wise_output)),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert output.read_bytes() == _labels(wise_output).read_bytes()


def test_a_second_training_with_the_same_seed_gives_the_same_labels(
    wise_output, run_tool, tmp_path
):
    completed = run_tool(
        "train_net.py",
        *("--config-file", "configs/shapes/wise/classifier.yaml"),
        *("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()", *QUICK),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    output = tmp_path / "labels.json"
    completed = run_tool(
        "make_pseudo_labels.py",
        *("--config-file", "configs/shapes/wise/pseudo_labels.yaml", "--output", output),
        *_label_options(wise_output),
        *("MODEL.WEIGHTS", tmp_path / "model_final.pth"),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    first, second = (json.loads(p.read_text()) for p in (_labels(wise_output), output))
    assert first["annotations"] == second["annotations"]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("configs/shapes/wise/classifier.yaml", ()),
        ("configs/shapes/mask_rcnn_R_50_slim_FPN_true_masks.yaml", ()),
    ],
)
def test_training_in_two_gloo_processes_and_resuming_it(config, options, run_tool, tmp_path):
    arguments = ("--config-file", config, "--num-gpus", 2, "--dist-url", "auto")
    common = (*QUICK, "OUTPUT_DIR", tmp_path, *options)
    completed = run_tool("train_net.py", *arguments, *common)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()
    log = (tmp_path / "log.txt").read_text()
    assert "World size: 2" in log
    completed = run_tool(
        "train_net.py", *arguments, "--resume", *common, "SOLVER.MAX_ITER", 3, "DATASETS.TEST", "()"
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()


def test_train_net_under_torchrun(datasets_root, tmp_path):
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *("tools/train_net.py", "--config-file", "configs/shapes/wise/classifier.yaml"),
            *("OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "()", *QUICK),
        ],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "World size: 2" in (tmp_path / "log.txt").read_text()


def test_evaluation_alone(wise_output, run_tool, tmp_path):
    completed = run_tool(
        "train_net.py",
        *("--config-file", "configs/shapes/wise/classifier.yaml", "--eval-only"),
        *("MODEL.WEIGHTS", wise_output / "classifier" / "model_final.pth"),
        *("OUTPUT_DIR", tmp_path, *QUICK),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    again = json.loads((tmp_path / "eval_metrics.json").read_text())
    first = json.loads((wise_output / "metrics.json").read_text())["classifier"]["metrics"]
    assert again["classification"]["mAP"] == pytest.approx(first["classification"]["mAP"])
