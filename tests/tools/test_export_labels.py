"""tools/export_labels.py as a user runs it."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils


@pytest.mark.slow
def test_export_and_errors(run_tool, tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[4:16, 3:25] = 1
    mask[8:10, 8:12] = 0
    rle = mask_utils.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    labels = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    arguments = (tmp_path / "labels.json", "--format", "coco-polygons", "--output")
    done = run_tool("export_labels.py", *arguments, tmp_path / "out", "--classes", "dog")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 masks of 1 images (train 1) are in")
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    ((polygon,),) = (a["segmentation"] for a in written["annotations"])
    filled = mask_utils.decode(mask_utils.frPyObjects([polygon], 20, 30))[:, :, 0]
    np.testing.assert_array_equal(filled, mask)

    done = run_tool("export_labels.py", *arguments, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
