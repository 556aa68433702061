"""What tools do before torch loads: how OpenMP's threads wait, unless the user has chosen it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
STUB = "import os; print(os.environ.get('GOMP_SPINCOUNT')); os._exit(0)"


def spin_count_when_torch_loads(folder, tool, **variables):
    """What GOMP_SPINCOUNT is when the tool imports torch, or a package that does."""
    for name in ("torch", "detectron2", "wsis_d2"):
        (folder / f"{name}.py").write_text(STUB)
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env.update(variables, PYTHONPATH=str(folder), PYTHONUNBUFFERED="1")
    command = [sys.executable, str(TOOLS / tool)]
    completed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


@pytest.mark.parametrize(
    "tool",
    [
        "benchmark.py",
        "lazyconfig_train_net.py",
        "make_cams.py",
        "make_contours.py",
        "make_pseudo_labels.py",
        "make_seeds.py",
        "run_pipeline.py",
        "train_net.py",
    ],
)
def test_every_tool_that_computes_sets_it_first(tmp_path, tool):
    assert spin_count_when_torch_loads(tmp_path, tool) == "1000"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_the_users_own_choice_stays(tmp_path, variables, expected):
    assert spin_count_when_torch_loads(tmp_path, "train_net.py", **variables) == expected


@pytest.mark.parametrize(
    "command", [[str(TOOLS / "train_net.py"), "--help"], ["-c", "import wsis_d2.engine"]]
)
def test_imports_warn_of_nothing(command):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    completed = subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=600
    )
    assert (completed.returncode, completed.stderr) == (0, "")
