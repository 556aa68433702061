"""Stages that make labels, killed at random points and gone on with: the same files in the end."""

import os
import random
import resource
import signal

import pytest
import torch
from conftest import ROOT
from detectron2.modeling import build_model

from wsis_d2.data import SHAPES_CLASSES, register_builtin_datasets
from wsis_d2.engine import (
    WSISCheckpointer,
    load_config,
    make_cams,
    make_proposals,
    make_pseudo_labels,
    make_seeds,
)

METHOD = "configs/shapes/affinitynet"
NUM_KILLS = 3

#: Function, config, and the key of what is made beside OUTPUT_DIR.
STAGES = {
    "cams": (make_cams, "classifier", "CAM.PATH"),
    "seeds": (make_seeds, "seeds", "SEEDS.PATH"),
    "proposals": (make_proposals, "pseudo_labels", "PROPOSALS.PATH"),
    "pseudo_labels": (make_pseudo_labels, "pseudo_labels", "OUTPUT_DIR"),
}


def _config(name, **options):
    fixed = {
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": 0,
        "CAM.SCALES": "(1.0,)",
        "PSEUDO_LABELS.DATASET": "shapes_val",
    }
    opts = [str(x) for pair in {**fixed, **options}.items() for x in pair]
    return load_config(f"{METHOD}/{name}.yaml", opts)


@pytest.fixture(scope="module")
def networks(datasets_root, tmp_path_factory):
    """Untrained ones, and CAMs: options of all stages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        register_builtin_datasets(str(datasets_root))
        folder = tmp_path_factory.mktemp("networks")
        weights = {}
        for name in ("classifier", "pseudo_labels"):
            cfg = _config(name)
            kind = cfg.MODEL.META_ARCHITECTURE
            torch.manual_seed(0)
            WSISCheckpointer(
                build_model(cfg), str(folder), meta_architecture=kind, classes=SHAPES_CLASSES
            ).save(name)
            weights[name] = folder / f"{name}.pth"
        cams = folder / "cams"
        options = {"CAM.PATH": cams, "MODEL.WEIGHTS": weights["classifier"]}
        make_cams(_config("classifier", **options))
        yield weights, cams
    register_builtin_datasets()


def _run(function, cfg, resume, cpu_seconds=0.0):
    """Run a stage in a process of its own, which is killed after some time of work (0: never).

    Returns:
        Whether it was killed.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # Nobody handles its signal, so it ends the process as SIGKILL does, anywhere.
            signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)
            function(cfg, resume=resume)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGVTALRM)
    return status != 0


def _files(folder):
    """Contents by name, without what a kill leaves of a file that was being written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(STAGES))
def test_the_same_files_after_kills(networks, stage, tmp_path):
    function, config, key = STAGES[stage]
    weights, cams = networks

    def configure(name):
        options = {"CAM.PATH": cams, "MODEL.WEIGHTS": weights.get(config, "")}
        return _config(config, **{**options, key: tmp_path / name})

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert not _run(function, configure("whole"), resume=False)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    cfg, shares = configure("parts"), random.Random(stage)
    points = [shares.uniform(0.1, 0.9) * seconds for _ in range(NUM_KILLS)]
    was_killed = [_run(function, cfg, True, point) for point in points]
    assert any(was_killed)
    assert not _run(function, cfg, resume=True)
    whole = _files(tmp_path / "whole")
    assert len(whole) > 1 or stage == "pseudo_labels"
    assert _files(tmp_path / "parts") == whole
