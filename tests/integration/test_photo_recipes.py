"""The recipes for photographs, whole, on a tiny Shapes: a small timm network, random weights."""

import json
from xml.etree import ElementTree

import pytest

pytest.importorskip("timm")

#: Two iterations of everything, small crops, and nothing that a download would be needed for.
QUICK = [
    *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0),
    *("MODEL.TIMM.NAME", "mobilenetv2_035", "INPUT.IMAGE_LEVEL.CROP_SIZE", 96),
    *("INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN", "(96,128)", "INPUT.IMAGE_LEVEL.SQUARE_SIZE", 128),
    *("MODEL.IRNET.TEST_SIZE", 0, "CAM.SCALES", "(1.0,)", "TEST.DETECTIONS_PER_IMAGE", 5),
    *("INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", 128),
    *("PROPOSALS.BUILTIN.CONTOURS", "none", "classifier:MODEL.WEIGHTS", ""),
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
def test_from_labels_to_a_report(method, last, datasets_root, run_tool, tmp_path):
    run_recipe(f"{method}_mobile", last, [], datasets_root, run_tool, tmp_path)


@pytest.mark.slow
def test_from_labels_to_a_report_with_sam(random_sam, datasets_root, run_tool, tmp_path):
    options = ["PROPOSALS.PROMPTED.WEIGHTS", random_sam]
    run_recipe("wise_sam", "mask_rcnn", options, datasets_root, run_tool, tmp_path)
    assert not (tmp_path / "output" / "proposals").exists()


def run_recipe(recipe, last, options, datasets_root, run_tool, tmp_path):
    """Run a recipe for own photographs on a tiny Shapes and look at what it makes."""
    rows = ["file_name,labels"]
    for path in sorted((datasets_root / "shapes" / "Annotations").glob("train_*.xml")):
        names = {node.text for node in ElementTree.parse(path).iterfind("object/name")}
        rows.append(f"{path.stem}.jpg,{';'.join(sorted(names))}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    completed = run_tool(
        "run_pipeline.py",
        *("--recipe", f"configs/own/{recipe}/recipe.yaml", "--output", tmp_path / "output"),
        *("DATASETS.OWN_TRAIN.IMAGE_ROOT", datasets_root / "shapes" / "JPEGImages"),
        *("DATASETS.OWN_TRAIN.LABELS", tmp_path / "labels.csv"),
        *(*QUICK, f"{last}:MODEL.WEIGHTS", "", *options),
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    labels = json.loads((tmp_path / "output/pseudo_labels/pseudo_labels.json").read_text())
    assert len(labels["images"]) == 16
    assert (tmp_path / "output" / last / "model_final.pth").is_file()
    assert (tmp_path / "output" / "report.html").stat().st_size > 10_000
