import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "prepare_shapes.py"


def prepare_shapes(*arguments) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        str(TOOL),
        *map(str, arguments),
        "--num-train",
        "2",
        "--num-val",
        "1",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_writes_then_skips_and_refuses_foreign_folders(tmp_path):
    output = tmp_path / "datasets" / "shapes"  # the parent is made too
    first = prepare_shapes("--output", output, "--seed", 3, "--image-size", 64)
    assert first.returncode == 0, first.stderr
    assert "2 training and 1 validation images" in first.stdout
    assert len(os.listdir(output / "JPEGImages")) == 3

    second = prepare_shapes("--output", output, "--seed", 3, "--image-size", 64)
    assert second.returncode == 0
    assert "there already" in second.stdout

    foreign = prepare_shapes("--output", tmp_path / "datasets")
    assert foreign.returncode == 2
    assert foreign.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "not a Shapes dataset" in foreign.stderr
    assert "Traceback" not in foreign.stderr


def test_unwritable_output_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    result = prepare_shapes("--output", tmp_path / "file" / "shapes")
    assert result.returncode == 2
    assert "error: cannot write Shapes to" in result.stderr
    assert "Traceback" not in result.stderr
