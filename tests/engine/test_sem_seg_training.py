"""The semantic second stage, from pseudo label maps on disk to mIoU."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

from wsis_d2.data import SemSegMapper, register_builtin_datasets, training_classes
from wsis_d2.data.label_maps import read_label_map, write_label_map
from wsis_d2.engine import load_config
from wsis_d2.engine.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "shapes"
HAS_DEEPLAB = importlib.util.find_spec("detectron2.projects.deeplab") is not None
QUICK = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"]
FPN, DEEPLAB = "sem_seg_R_50_slim_FPN.yaml", "deeplab_v3_plus_R_50_slim.yaml"
CLASSES = ["background", "ant", "beetle", "crab", "fish", "snail"]

needs_deeplab = pytest.mark.skipif(not HAS_DEEPLAB, reason="Detectron2 without its projects")


@pytest.fixture
def pseudo_maps(datasets_root, tmp_path):
    """The true label maps of the training images in the place of pseudo labels."""
    folder = tmp_path / "maps"
    shutil.copytree(datasets_root / "shapes" / "SegmentationClass", folder)
    return folder


@pytest.mark.parametrize("config", [FPN, pytest.param(DEEPLAB, marks=needs_deeplab)])
def test_trains_on_pseudo_labels_and_evaluates(tool_in_process, pseudo_maps, tmp_path, config):
    output = tmp_path / "out"
    options = ["DATASETS.PSEUDO.SEM_SEG_ROOT", pseudo_maps, "OUTPUT_DIR", output, *QUICK]
    arguments = ["--config-file", CONFIGS / config]
    code, message = tool_in_process("train_net.py", *arguments, *options)
    assert code == 0, message

    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["wsis_d2"]["classes"] == CLASSES
    assert checkpoint["model"]["sem_seg_head.predictor.weight"].shape[0] == 6
    metrics = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert 0 <= metrics["sem_seg/mIoU"] <= 100

    options += ["MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", tmp_path / "again"]
    code, message = tool_in_process("train_net.py", *arguments, "--eval-only", *options)
    assert code == 0, message
    again = json.loads((tmp_path / "again/eval_metrics.json").read_text())["sem_seg"]
    assert {f"IoU-{name}" for name in CLASSES} | {"mIoU", "pACC"} <= set(again)
    assert again["mIoU"] == pytest.approx(metrics["sem_seg/mIoU"], abs=1e-3)


def test_a_missing_pseudo_label_stops_training_before_it_begins(
    tool_in_process, pseudo_maps, tmp_path
):
    (pseudo_maps / "train_000003.png").unlink()
    code, message = tool_in_process(
        *("train_net.py", "--config-file", CONFIGS / FPN),
        *("DATASETS.PSEUDO.SEM_SEG_ROOT", pseudo_maps, "OUTPUT_DIR", tmp_path / "out", *QUICK),
    )
    assert code == 2
    assert "train_000003.png" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("config", [FPN, pytest.param(DEEPLAB, marks=needs_deeplab)])
def test_number_of_classes_is_that_of_the_source(datasets_root, tmp_path, config):
    register_builtin_datasets(str(datasets_root))
    cfg = load_config(str(CONFIGS / config), ["DATASETS.PSEUDO.SEM_SEG_ROOT", str(tmp_path)])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6
    assert training_classes(cfg) == CLASSES
    assert training_classes(cfg) == MetadataCatalog.get(cfg.DATASETS.TEST[0]).stuff_classes


@pytest.mark.parametrize("config", [FPN, pytest.param(DEEPLAB, marks=needs_deeplab)])
def test_images_of_any_size(tmp_path, config):
    cfg = load_config(
        str(CONFIGS / config), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6", "MODEL.DEVICE", "cpu"]
    )
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (0,), 0
    records = []
    for i, (height, width) in enumerate([(65, 83), (70, 79)]):
        record = {"image_id": i, "height": height, "width": width}
        record["file_name"] = str(tmp_path / f"{i}.jpg")
        record["sem_seg_file_name"] = str(tmp_path / f"{i}.png")
        Image.new("RGB", (width, height), "red").save(record["file_name"])
        write_label_map(record["sem_seg_file_name"], np.full((height, width), i, np.uint8))
        records.append(record)
    model = Trainer.build_model(cfg)
    (loss,) = model([SemSegMapper(cfg, is_train=True)(r) for r in records]).values()
    assert loss.isfinite()
    model.eval()
    outputs = model([SemSegMapper(cfg, is_train=False)(r) for r in records])
    assert [tuple(o["sem_seg"].shape) for o in outputs] == [(6, 65, 83), (6, 70, 79)]


class _Oracle(nn.Module):
    """Gives the true label map of a test image."""

    def __init__(self, records):
        super().__init__()
        self.maps = {r["image_id"]: read_label_map(r["sem_seg_file_name"]) for r in records}

    def forward(self, inputs):
        maps = [torch.from_numpy(self.maps[x["image_id"]]).long() for x in inputs]
        return [{"sem_seg": nn.functional.one_hot(m, 6).permute(2, 0, 1)} for m in maps]


def test_the_truth_scores_100(datasets_root, tmp_path):
    register_builtin_datasets(str(datasets_root))
    cfg = load_config(str(CONFIGS / FPN), ["DATASETS.PSEUDO.SEM_SEG_ROOT", str(tmp_path)])
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(tmp_path), 0
    oracle = _Oracle(DatasetCatalog.get("shapes_val_sem_seg"))
    assert Trainer.test(cfg, oracle)["sem_seg"]["mIoU"] == 100


def test_the_models_are_stock():
    assert META_ARCH_REGISTRY.get("SemanticSegmentor").__module__.startswith("detectron2.")
