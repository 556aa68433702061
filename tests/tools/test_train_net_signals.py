"""tools/train_net.py in a cluster, whose scheduler ends it."""

import signal

import pytest

CONFIG = "configs/shapes/irnet/classifier.yaml"
OPTIONS = (
    "MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 100000 "
    "SOLVER.CHECKPOINT_PERIOD 3 DATASETS.TEST ()"
).split()


@pytest.mark.slow
def test_sigterm_ends_all_processes_with_a_checkpoint_and_143(start_tool, tmp_path):
    flags = ("--config-file", CONFIG, "--num-gpus", 2)
    job = start_tool("train_net.py", *flags, *OPTIONS, "OUTPUT_DIR", tmp_path)
    assert job.wait_until((tmp_path / "last_checkpoint").is_file)
    assert len(job.pids()) >= 5  # two with a loader each
    job.process.send_signal(signal.SIGTERM)  # and nobody else
    _, stderr = job.process.communicate(timeout=300)
    assert job.process.returncode == 143
    assert "Traceback" not in stderr
    assert "terminated: run the same command with --resume" in stderr
    assert job.wait_until(lambda: not job.pids(), seconds=60)
    checkpoints = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert (tmp_path / "last_checkpoint").read_text() == checkpoints[-1]
