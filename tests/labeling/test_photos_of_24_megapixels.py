"""A photo of 6000 x 4000 pixels goes through every label stage in the memory that the config says.

In a process of its own, whose peak is its own: MAX_PIXELS_TEST is as it is by default.
"""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = '''
import json, sys
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image

from wsis_d2.allocator import keep_freed_memory
from wsis_d2.engine import (
    WSISCheckpointer, load_config, make_cams, make_pseudo_labels, make_seeds
)
from wsis_d2.evaluation import evaluate_mask_files

torch.set_num_threads(1)
keep_freed_memory()  # as the tools do
folder = Path(sys.argv[1])
(folder / "photos").mkdir()
rng = np.random.default_rng(0)
coarse = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
coarse.resize((6000, 4000), Image.BILINEAR).save(folder / "photos" / "a.jpg")
(folder / "labels.csv").write_text("file_name,labels\\na.jpg,cat;dog\\n")
OPTIONS = [
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SEEDS.NUM_WORKERS", "1",
    "DATASETS.OWN_TRAIN.IMAGE_ROOT", str(folder / "photos"),
    "DATASETS.OWN_TRAIN.LABELS", str(folder / "labels.csv"), "DATASETS.TRAIN", "('own_train',)",
    "CAM.PATH", str(folder / "cams"), "SEEDS.PATH", str(folder / "seeds"),
    "PROPOSALS.PATH", str(folder / "proposals"), "DENSE_CRF.NUM_ITERS", "1",
    "PSEUDO_LABELS.CLASS_THRESHOLD", "-100.0",
]

def config(name, *options):
    return load_config("configs/own/" + name, [*OPTIONS, *options])

def with_weights(name, *options):
    """Of an untrained network."""
    cfg = config(name, *options)
    torch.manual_seed(0)
    meta_architecture = cfg.MODEL.META_ARCHITECTURE
    WSISCheckpointer(
        build_model(cfg), str(folder), meta_architecture=meta_architecture, classes=["cat", "dog"]
    ).save(meta_architecture)
    cfg.MODEL.WEIGHTS = str(folder / (meta_architecture + ".pth"))
    return cfg

def peak():
    """Of this process since the last call, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) // 1024

peaks = {"imports": peak()}
make_cams(with_weights("irnet_mobile/classifier.yaml"))
peaks["CAMs"] = peak()
make_seeds(config("irnet_mobile/seeds.yaml"))
peaks["seeds"] = peak()
for name, recipe in (("IRNet labels", "irnet_mobile"), ("WISE labels", "wise_cams_mobile")):
    output = str(folder / (name + ".json"))
    make_pseudo_labels(with_weights(recipe + "/pseudo_labels.yaml"), output)
    peaks[name] = peak()
    evaluate_mask_files(output, output)
    peaks["evaluation of " + name] = peak()
sizes = [
    annotation["segmentation"]["size"]
    for name in ("IRNet labels", "WISE labels")
    for annotation in json.loads((folder / (name + ".json")).read_text())["annotations"]
]
maps = [*(folder / "seeds").glob("*.png"), *folder.glob("*_sem_seg/*.png")]
map_sizes = [Image.open(path).size for path in maps]
print(json.dumps({"peaks": peaks, "sizes": sizes, "map sizes": map_sizes}))
'''


@pytest.mark.slow
def test_every_label_stage(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert completed.returncode == 0, completed.stderr[-3000:]
    result = json.loads(completed.stdout.splitlines()[-1])
    assert max(result["peaks"].values()) < 4 * 1024, result["peaks"]
    assert len(result["sizes"]) > 0
    assert all(size == [4000, 6000] for size in result["sizes"])
    assert result["map sizes"] == [[6000, 4000]] * 2
