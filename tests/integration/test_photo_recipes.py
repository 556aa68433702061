"""The recipes for photographs, whole, on a tiny Shapes: a small timm network, random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("timm")

ROOT = Path(__file__).resolve().parents[2]

#: Two iterations of everything, small crops, and nothing that a download would be needed for.
QUICK = [
    *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0),
    *("MODEL.TIMM.NAME", "mobilenetv2_035", "INPUT.IMAGE_LEVEL.CROP_SIZE", 96),
    *("INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN", "(96,128)", "INPUT.IMAGE_LEVEL.SQUARE_SIZE", 128),
    *("MODEL.IRNET.TEST_SIZE", 0, "CAM.SCALES", "(1.0,)", "TEST.DETECTIONS_PER_IMAGE", 5),
    *("INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", 128),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    *("REPORT.NUM_EXAMPLES", 4, "REPORT.NUM_REVIEWED", 8),
    *("PROPOSALS.BUILTIN.CONTOURS", "none", "PROPOSALS.BUILTIN.SCALES", "(150,)"),
    *("PROPOSALS.BUILTIN.COLOR_SPACES", "('lab',)", "classifier:MODEL.WEIGHTS", ""),
    # Some evidence for every class, and no picture without a mask.
    *(
        "classifier:SOLVER.MAX_ITER",
        12,
        "PSEUDO_LABELS.IRNET.BG_THRESHOLD",
        0.0,
        "PSEUDO_LABELS.IRNET.MIN_AREA",
        0.0,
    ),
]


@pytest.fixture
def labels(datasets_root, tmp_path):
    """A CSV of the training images' labels."""
    rows = ["file_name,labels"]
    for path in sorted((datasets_root / "shapes" / "Annotations").glob("train_*.xml")):
        names = {node.text for node in ElementTree.parse(path).iterfind("object/name")}
        rows.append(f"{path.stem}.jpg,{';'.join(sorted(names))}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "labels.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "last"),
    [
        ("irnet", "mask_rcnn"),
        ("affinitynet", "sem_seg"),
        ("wise", "mask_rcnn"),
        ("wise_cams", "mask_rcnn"),
    ],
)
def test_from_labels_to_a_report(method, last, datasets_root, run_tool, labels, tmp_path):
    run_recipe(f"{method}_mobile", last, [], datasets_root, run_tool, labels, tmp_path)


@pytest.mark.slow
def test_from_labels_to_a_report_with_sam(random_sam, datasets_root, run_tool, labels, tmp_path):
    options = ["PROPOSALS.PROMPTED.WEIGHTS", random_sam]
    run_recipe("wise_sam", "mask_rcnn", options, datasets_root, run_tool, labels, tmp_path)
    assert not (tmp_path / "output" / "proposals").exists()


def run_recipe(recipe, last, options, datasets_root, run_tool, labels, tmp_path):
    """Run a recipe for own photographs on a tiny Shapes and look at what it makes."""
    completed = run_tool(
        "run_pipeline.py",
        *("--recipe", f"configs/own/{recipe}/recipe.yaml", "--output", tmp_path / "output"),
        *("DATASETS.OWN_TRAIN.IMAGE_ROOT", datasets_root / "shapes" / "JPEGImages"),
        *("DATASETS.OWN_TRAIN.LABELS", labels),
        *(*QUICK, f"{last}:MODEL.WEIGHTS", "", *options),
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    labels = json.loads((tmp_path / "output/pseudo_labels/pseudo_labels.json").read_text())
    assert len(labels["images"]) == 16
    assert (tmp_path / "output" / last / "model_final.pth").is_file()
    assert (tmp_path / "output" / "report.html").stat().st_size > 10_000


#: What people write first: it does not ask whether it is the main module.
SCRIPT = """
import dataclasses, json, sys
import wsis_d2
assert "wsis_d2.engine" not in sys.modules  # who wants a model alone does not wait for it
from wsis_d2 import pseudo_label
images, options = {images!r}, {options!r}
for _ in range(2):
    result = pseudo_label(images, "labels.csv", method="wise", output="out", options=options)
print(json.dumps(dataclasses.asdict(result)))
"""


@pytest.mark.slow
def test_from_python(datasets_root, labels, tmp_path):
    images = str(datasets_root / "shapes" / "JPEGImages")
    script = SCRIPT.format(images=images, options=dict(zip(QUICK[::2], QUICK[1::2])))
    (tmp_path / "script.py").write_text(script)
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    once, again = "pseudo_labels: done", "pseudo_labels: unchanged, skipped"
    assert completed.stdout.index(once) < completed.stdout.index(again)
    result = json.loads(completed.stdout.splitlines()[-1])
    written = json.loads(Path(result["json_file"]).read_text())
    assert len(written["images"]) == 16
    assert Path(result["json_file"]).parents[1] == tmp_path / "out"
    assert result["metrics"]["proposals"]["num_images"] == 16
    assert result["report"] == ""
    assert not (tmp_path / "out" / "mask_rcnn").exists()
