import importlib.util
import os
from pathlib import Path

import pytest

from wsis_d2.engine import run_tool

TOOL = Path(__file__).parents[2] / "tools" / "prepare_shapes.py"
COUNTS = ["--num-train", "2", "--num-val", "1", "--num-workers", "1"]


@pytest.fixture(scope="module")
def prepare_shapes():
    """The tool in this process: imports of torch and detectron2 are paid only once."""
    spec = importlib.util.spec_from_file_location("prepare_shapes", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return lambda *arguments: run_tool(
        tool.main, tool.get_parser().parse_args([*COUNTS, *map(str, arguments)])
    )


def test_writes_then_skips(prepare_shapes, tmp_path, capsys):
    output = tmp_path / "datasets" / "shapes"  # the parent is made too
    assert prepare_shapes("--output", output, "--image-size", 64) == 0
    assert capsys.readouterr().out == f"{output}: 2 training and 1 validation images\n"
    assert len(os.listdir(output / "JPEGImages")) == 3

    assert prepare_shapes("--output", output, "--image-size", 64) == 0
    assert capsys.readouterr().out.endswith("images (there already)\n")


def test_foreign_folder_is_one_sentence(prepare_shapes, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    assert prepare_shapes("--output", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "not a Shapes dataset" in line


def test_unwritable_output_is_one_sentence_and_exit_code_2(run_tool, tmp_path):
    (tmp_path / "file").write_text("")
    result = run_tool("prepare_shapes.py", *COUNTS, "--output", tmp_path / "file" / "shapes")
    assert result.returncode == 2
    # Libraries may print warnings of their own before.
    assert result.stderr.splitlines()[-1].startswith("error: cannot write Shapes to")
    assert "Traceback" not in result.stderr
