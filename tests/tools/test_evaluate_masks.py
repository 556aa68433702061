"""tools/evaluate_masks.py as a user runs it."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils


@pytest.mark.slow
def test_table_metrics_and_errors(run_tool, tmp_path):
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
    result = run_tool(
        *("evaluate_masks.py", "--gt", tmp_path / "gt.json", "--pred", tmp_path / "pred.json"),
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

    files = ("--gt", tmp_path / "none.json", "--pred", tmp_path / "pred.json")
    result = run_tool("evaluate_masks.py", *files)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: there is no file")
    assert "Traceback" not in result.stderr
