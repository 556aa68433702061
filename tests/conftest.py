"""Fixtures that several rooms share: tiny datasets, and tools run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wsis_d2.data.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Two cores and many small tensors: more threads only fight.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory) -> Path:
    """A folder for $DETECTRON2_DATASETS with a Shapes of 16 + 8 pictures."""
    root = tmp_path_factory.mktemp("datasets")
    write_shapes(root / "shapes", num_train=16, num_val=8, seed=0)
    return root


@pytest.fixture
def run_tool(datasets_root):
    """Run ``python tools/<name>`` in a subprocess; returns the completed process."""

    def run(name: str, *args: object, env: dict | None = None, timeout: float = 300):
        command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / name), *map(str, args)]
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets_root),
            "OMP_NUM_THREADS": "1",
            **(env or {}),
        }
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
        )

    return run
