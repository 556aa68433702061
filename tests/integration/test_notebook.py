"""The notebook of the demo runs from top to bottom, on a tiny Shapes and with few iterations."""

import ast
import json

import pytest
from conftest import QUICK, ROOT
from PIL import Image

from wsis_d2.data import register_builtin_datasets
from wsis_d2.folder_lock import unlock_folders

NOTEBOOK = ROOT / "demo" / "demo.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_is_committed_without_outputs(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert NOTEBOOK.stat().st_size < 20_000


def run_cell(source: str, name: str, namespace: dict) -> object:
    """What a cell's last line gives, as a notebook shows it."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(cells, tmp_path, monkeypatch, fresh_loggers):
    monkeypatch.chdir(NOTEBOOK.parent)
    namespace, shown = {}, []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        shown.append(run_cell("".join(cell["source"]), f"cell {number}", namespace))
        if "parameters" in cell["metadata"].get("tags", ()):  # papermill's convention
            assert {"OUTPUT", "NUM_TRAIN", "NUM_VAL", "OPTIONS"} <= set(namespace)
            namespace |= {"OUTPUT": str(tmp_path), "NUM_TRAIN": 8, "NUM_VAL": 4}
            namespace["OPTIONS"] = [*QUICK, "SEEDS.NUM_WORKERS", 1, "MODEL.DEVICE", "cpu"]
    unlock_folders()
    register_builtin_datasets()

    pictures = [value for value in shown if isinstance(value, Image.Image)]
    assert [picture.size for picture in pictures] == [(3 * 128, 128)] * 6
    assert len({picture.tobytes() for picture in pictures}) == 6
    metrics = namespace["metrics"]
    assert 0 <= metrics["classifier"]["classification"]["mAP"] <= 100
    assert 0 <= metrics["pseudo_labels"]["AP50"] <= 100
    assert 0 <= metrics["mask_rcnn"]["segm"]["AP50"] <= 100
