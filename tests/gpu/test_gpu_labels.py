"""Labels of the same weights on the GPU and on the CPU, and whole recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT
from detectron2.data import DatasetCatalog, MetadataCatalog

from wsis_d2.data import register_builtin_datasets
from wsis_d2.data.shapes import write_shapes
from wsis_d2.engine import load_label_generator
from wsis_d2.engine.supervision import build_supervision
from wsis_d2.recipes import load_recipe, stage_config

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

RECIPES = ["irnet", "wise"]
FEW_PEAKS = ["PSEUDO_LABELS.MAX_PEAKS", "10"]  # an untrained classifier has them everywhere


def _recipe_file(name):
    return str(ROOT / "configs" / "shapes" / name / "recipe.yaml")


def _run_tool(name, datasets_root, *arguments):
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", f"tools/{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]


@pytest.fixture(scope="module")
def output_of(device, datasets_root, tmp_path_factory):
    """A function: the output folder of a recipe on the tiny Shapes, run once on the device."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            _run_tool(
                *("run_pipeline.py", datasets_root, "--recipe", _recipe_file(name)),
                *("--output", folders[name], "MODEL.DEVICE", device, *QUICK, *FEW_PEAKS),
            )
        return folders[name]

    return run


@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_recipe_runs(output_of, name):
    folder = output_of(name)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"classifier", "pseudo_labels", "mask_rcnn"} <= set(metrics)
    assert (folder / "report.html").exists()


def _label_maps(name, folder, device):
    """(N, H, W): the class of the best mask at each pixel of the first images, 0 where none is."""
    recipe = load_recipe(_recipe_file(name))
    (stage,) = (stage for stage in recipe.stages if stage.name == "pseudo_labels")
    cfg = stage_config(recipe, stage, str(folder), [*QUICK, *FEW_PEAKS, "MODEL.DEVICE", device])
    generator = load_label_generator(cfg, MetadataCatalog.get("shapes_train").thing_classes)
    mapper = build_supervision(cfg).label_mapper(is_train=False)
    label_maps = []
    for d in DatasetCatalog.get("shapes_train")[:4]:
        (output,) = generator([mapper(d)])
        instances = output["instances"]
        label_map = np.zeros(instances.image_size, np.int64)
        for i in reversed(range(len(instances))):
            mask = instances.pred_masks[i].cpu().numpy()
            label_map[mask] = int(instances.pred_classes[i]) + 1
        label_maps.append(label_map)
    return np.stack(label_maps)


@pytest.mark.parametrize("name", RECIPES)
def test_labels_are_those_of_the_cpu(output_of, device, datasets_root, name, full_precision):
    folder = output_of(name)
    register_builtin_datasets(str(datasets_root))
    expected, found = (_label_maps(name, folder, where) for where in ("cpu", device))
    assert (found == expected).mean() > 0.999


def test_more_ranks_than_images(output_of, device, tmp_path):
    """The one without an image waits; the labels are those of one process."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    folder = output_of("wise")
    write_shapes(tmp_path / "shapes", num_train=1, num_val=1, seed=3)
    contents = []
    for num_processes in (1, 2):
        output = tmp_path / f"labels{num_processes}.json"
        _run_tool(
            *("make_pseudo_labels.py", tmp_path, "--num-gpus", num_processes),
            *("--config-file", "configs/shapes/wise/pseudo_labels.yaml", "--output", output),
            *("MODEL.WEIGHTS", folder / "classifier" / "model_final.pth"),
            *("PROPOSALS.PATH", tmp_path / "proposals", "MODEL.DEVICE", device),
            *(*QUICK, *FEW_PEAKS),
        )
        contents.append(json.loads(output.read_text()))
    assert len(contents[0]["images"]) == 1
    assert contents[0] == contents[1]
