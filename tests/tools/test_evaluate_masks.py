"""tools/evaluate_masks.py as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_masks.py"


def run(*args):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )


@pytest.mark.slow
def test_table_metrics_and_errors(tmp_path):
    rle = mask_utils.encode(np.asfortranarray(np.eye(20, dtype=np.uint8)))
    rle["counts"] = rle["counts"].decode()
    gt = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": rle}
        ],
        "categories": [{"id": 1, "name": "bicycle"}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "pred.json").write_text(json.dumps(gt["annotations"]))
    output = tmp_path / "metrics" / "metrics.json"
    result = run(
        *("--gt", tmp_path / "gt.json", "--pred", tmp_path / "pred.json"),
        *("--output", output, "--coco"),
    )
    assert result.returncode == 0, result.stderr
    assert "bicycle" in result.stdout
    assert "100.0" in result.stdout
    metrics = json.loads(output.read_text())
    assert metrics["AP50"] == 100
    assert metrics["per_class"]["1"]["ABO"] == 100
    assert metrics["by_size"]["large"]["AP50"] is None
    assert metrics["coco"]["APl"] is None

    result = run("--gt", tmp_path / "none.json", "--pred", tmp_path / "pred.json")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: there is no file")
    assert "Traceback" not in result.stderr
