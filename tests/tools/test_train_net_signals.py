"""tools/train_net.py in a cluster, whose scheduler ends it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT

OPTIONS = (
    "MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 100000 "
    "SOLVER.CHECKPOINT_PERIOD 3 DATASETS.TEST ()"
).split()
MARK = "WSIS_D2_TEST_JOB"


@pytest.fixture
def job(datasets_root, tmp_path):
    """A training on two processes, with a loader each."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("looks for processes in /proc")
    flags = ("--config-file", "configs/shapes/irnet/classifier.yaml", "--num-gpus", "2")
    own = {"DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1", MARK: str(tmp_path)}
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "tools/train_net.py"),
            *(*flags, *OPTIONS, "OUTPUT_DIR", str(tmp_path)),
        ],
        cwd=ROOT,
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    for pid in _pids(tmp_path):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def _pids(folder):
    """Processes of the job, whoever their parent is now."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_ends_all_processes_with_a_checkpoint_and_143(job, tmp_path):
    has_begun = (tmp_path / "last_checkpoint").is_file
    _wait_until(lambda: has_begun() or job.poll() is not None, 600)
    assert len(_pids(tmp_path)) >= 5
    job.send_signal(signal.SIGTERM)  # and nobody else
    _, stderr = job.communicate(timeout=600)
    assert job.returncode == 143
    assert "Traceback" not in stderr
    assert "terminated: run the same command with --resume" in stderr
    _wait_until(lambda: not _pids(tmp_path), 60)
    checkpoints = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert (tmp_path / "last_checkpoint").read_text() == checkpoints[-1]


@pytest.mark.slow
def test_sigkill_of_the_first_process_ends_all(job, tmp_path):
    has_begun = (tmp_path / "last_checkpoint").is_file
    _wait_until(lambda: has_begun() or job.poll() is not None, 600)
    assert len(_pids(tmp_path)) >= 5
    job.kill()
    _wait_until(lambda: not _pids(tmp_path), 60)
