"""tools/make_pseudo_labels.py in shards and in processes that die, with untrained networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from detectron2.modeling import build_model

from wsis_d2.data import SHAPES_CLASSES, register_builtin_datasets
from wsis_d2.engine import WSISCheckpointer, load_config, make_cams

FOLDER = "configs/shapes/affinitynet"
CONFIG = f"{FOLDER}/pseudo_labels.yaml"
NUM_IMAGES = 16


def _save_untrained(config, folder):
    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    meta_architecture = cfg.MODEL.META_ARCHITECTURE
    WSISCheckpointer(
        build_model(cfg), str(folder), meta_architecture=meta_architecture, classes=SHAPES_CLASSES
    ).save(meta_architecture)
    return folder / f"{meta_architecture}.pth"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, datasets_root):
    """Those of the tool but for the output, with CAMs and a network that are there."""
    register_builtin_datasets(str(datasets_root))
    folder = tmp_path_factory.mktemp("networks")
    weights = _save_untrained(f"{FOLDER}/classifier.yaml", folder)
    options = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "CAM.PATH", folder / "cams")
    opts = [str(o) for o in (*options, "MODEL.WEIGHTS", weights, "CAM.SCALES", "(1.0,)")]
    make_cams(load_config(f"{FOLDER}/classifier.yaml", opts))
    weights = _save_untrained(CONFIG, folder)
    crf = ("PSEUDO_LABELS.AFFINITYNET.REFINE", False)
    register_builtin_datasets()
    return ("--config-file", CONFIG, *options, *crf, "MODEL.WEIGHTS", weights)


@pytest.fixture
def make_labels(tool_in_process, arguments, tmp_path):
    def run(name, *flags, options=()):
        flags = ("--output", tmp_path / name, *flags)
        return tool_in_process("make_pseudo_labels.py", *flags, *arguments, *options)

    return run


@pytest.fixture
def whole(make_labels, tmp_path):
    code, stderr = make_labels("whole.json")
    assert code == 0, stderr
    assert len(json.loads((tmp_path / "whole.json").read_text())["annotations"]) > NUM_IMAGES
    return tmp_path / "whole.json"


def assert_same(output, whole):
    assert output.read_bytes() == whole.read_bytes()
    maps, expected = (
        {p.name: p.read_bytes() for p in path.with_name(f"{path.stem}_sem_seg").glob("*.png")}
        for path in (output, whole)
    )
    assert maps == expected
    assert len(maps) == NUM_IMAGES
    metrics, expected = (
        json.loads(path.with_name(f"{path.stem}_metrics.json").read_text())
        for path in (output, whole)
    )
    assert metrics == expected
    assert not list(output.parent.glob("*.partial"))


def test_shards_give_the_files_of_one_run(make_labels, whole, tmp_path):
    for index in (2, 0):
        code, stderr = make_labels("labels.json", "--shard", f"{index}/3")
        assert code == 0, stderr
    code, stderr = make_labels("labels.json", "--merge-shards", 3)
    assert code == 2
    assert stderr.splitlines()[-1].startswith("error: 1 of 3 shards of")
    assert not (tmp_path / "labels.json").exists()

    assert make_labels("labels.json", "--shard", "1/3")[0] == 0
    shards = [tmp_path / f"labels.shard-{i}-of-3.jsonl" for i in range(3)]
    times = [path.stat().st_mtime_ns for path in shards]
    assert make_labels("labels.json", "--shard", "1/3", "--resume")[0] == 0
    assert [path.stat().st_mtime_ns for path in shards] == times, "it was complete"

    other = ("PSEUDO_LABELS.AFFINITYNET.ALPHA", 8.0)
    code, stderr = make_labels("labels.json", "--merge-shards", 3, options=other)
    assert code == 2
    assert "labels.shard-0-of-3.jsonl' was made with other config" in stderr

    code, stderr = make_labels("labels.json", "--merge-shards", 3)
    assert code == 0, stderr
    assert_same(tmp_path / "labels.json", whole)

    next((tmp_path / "labels_sem_seg").glob("*.png")).unlink()
    code, stderr = make_labels("labels.json", "--merge-shards", 3)
    assert code == 2
    assert "1 label maps are missing in" in stderr


def test_shards_leave_what_others_have_written(make_labels, tmp_path):
    assert make_labels("labels.json", "--shard", "0/8")[0] == 0
    maps = sorted((tmp_path / "labels_sem_seg").glob("*.png"))
    other = ("PSEUDO_LABELS.AFFINITYNET.ALPHA", 8.0)
    code, stderr = make_labels("labels.json", "--shard", "1/8", options=other)
    assert code == 2
    assert "holds files of other settings" in stderr
    assert sorted((tmp_path / "labels_sem_seg").glob("*.png")) == maps


@pytest.mark.parametrize("shard", ["8/8", "1"])
def test_what_is_no_shard(make_labels, shard):
    code, stderr = make_labels("labels.json", "--shard", shard)
    assert code == 2
    assert stderr.splitlines()[-1].startswith(f"error: --shard is '{shard}'")


@pytest.mark.slow
def test_shards_at_the_same_time(whole, run_tool, arguments, datasets_root, tmp_path):
    """As an array of SLURM jobs runs them."""
    environment = {**os.environ, "PYTHON": sys.executable, "SLURM_ARRAY_TASK_COUNT": "2"}
    environment |= {"DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"}
    output = tmp_path / "labels.json"
    jobs = [
        subprocess.Popen(
            ["bash", "tools/slurm_shards.sh", "--output", output, *map(str, arguments)],
            cwd=ROOT,
            env={**environment, "SLURM_ARRAY_TASK_ID": str(i)},
        )
        for i in range(2)
    ]
    assert [job.wait(600) for job in jobs] == [0, 0]
    flags = ("--output", output, "--merge-shards", 2)
    completed = run_tool("make_pseudo_labels.py", *flags, *arguments)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert_same(output, whole)


def test_more_processes_than_images(run_tool, arguments, datasets_root, tmp_path):
    """As when a run goes on that had almost ended: who has no image waits for the others."""
    shard = ("--output", tmp_path / "labels.json", "--shard", f"0/{NUM_IMAGES}")
    completed = run_tool(
        *("make_pseudo_labels.py", *shard, "--num-gpus", 2, "--dist-url", "auto", *arguments)
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    lines = (tmp_path / f"labels.shard-0-of-{NUM_IMAGES}.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"image"' in line]) == 1, lines


DYING = """
import os, signal
from pathlib import Path
from detectron2.utils import comm
from wsis_d2.labeling import AffinityNetLabels

label, flag, done = AffinityNetLabels.label, Path({flag!r}), []

def dying_label(self, x):
    if comm.get_rank() == 1 and len(done) == 2 and flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(x)
    return label(self, x)

AffinityNetLabels.label = dying_label
"""


@pytest.mark.slow
def test_a_process_that_dies_loses_its_image_in_progress(whole, run_tool, arguments, tmp_path):
    """Then another number of processes goes on."""
    (tmp_path / "dying.py").write_text(DYING.format(flag=str(tmp_path / "flag")))
    (tmp_path / "flag").touch()
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    arguments = (*arguments, "IMPORTS", "('dying',)")

    def run(*flags):
        flags = ("--output", tmp_path / "labels.json", "--dist-url", "auto", *flags)
        return run_tool("make_pseudo_labels.py", *flags, *arguments, env={"PYTHONPATH": path})

    assert run("--num-gpus", 2).returncode != 0
    partial = sorted((tmp_path / "labels.json.partial").glob("*.jsonl"))
    lines = {p.stem[-1]: p.read_bytes().count(b"\n") for p in partial}
    assert lines["1"] == 2
    completed = run("--resume")
    assert completed.returncode == 0, completed.stderr[-3000:]
    log = (tmp_path / "log.txt").read_text()
    assert f"{sum(lines.values())} of {NUM_IMAGES} images are labelled already" in log
    assert_same(tmp_path / "labels.json", whole)


@pytest.mark.slow
def test_two_machines_under_torchrun(whole, arguments, datasets_root, tmp_path):
    """They find each other by torchrun's rendezvous, here both on this host."""
    output = tmp_path / "labels.json"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"),
        *("--rdzv_backend=c10d", "--rdzv_endpoint=localhost:29517", "--rdzv_id=labels"),
        *("tools/make_pseudo_labels.py", "--output", output, *arguments),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment)
        for _ in range(2)
    ]
    assert [machine.wait(600) for machine in machines] == [0, 0]
    assert_same(output, whole)


FAKE_SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""

RECIPE = """
title: A classifier and its CAMs
stages:
  - {{name: classifier, run: train, config: {folder}/classifier.yaml}}
  - name: cams
    run: cams
    config: {folder}/classifier.yaml
    options: {{MODEL.WEIGHTS: "{{classifier}}/model_final.pth", CAM.PATH: "{{cams}}/maps"}}
  - name: seeds
    run: seeds
    config: {folder}/classifier.yaml
    options: {{CAM.PATH: "{{cams}}/maps", SEEDS.PATH: "{{seeds}}/maps"}}
"""


@pytest.mark.slow
def test_a_recipe_on_two_machines_of_slurm(datasets_root, tmp_path):
    """The script for sbatch; its two machines are this host."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in (("srun", FAKE_SRUN), ("scontrol", "#!/bin/bash\necho localhost\n")):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=Path(ROOT) / FOLDER))
    command = ["bash", "tools/slurm_pipeline.sh", "--recipe", recipe, "--output", tmp_path / "out"]
    quick = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0 MODEL.DEVICE cpu"
    options = (*quick.split(), "CAM.SCALES", "(1.0,)", "DENSE_CRF.ENABLED", "False")
    completed = subprocess.run(
        [*map(str, command), *options],
        cwd=ROOT,
        env={
            **os.environ,
            **{"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHON": sys.executable},
            **{"SLURM_JOB_ID": "9876", "SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2"},
            **{"SLURM_GPUS_ON_NODE": "1", "OMP_NUM_THREADS": "1"},
            "DETECTRON2_DATASETS": str(datasets_root),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-3000:]
    for stage in ("classifier", "cams"):
        assert (tmp_path / "out" / stage / "log.txt.rank1").is_file(), "of the second machine"
    for stage, extension in (("cams", "npz"), ("seeds", "png")):
        assert len(list((tmp_path / "out" / stage / "maps").glob(f"*.{extension}"))) == NUM_IMAGES
