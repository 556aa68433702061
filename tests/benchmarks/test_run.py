"""The tool: every stage runs, and the figures come out as they are described."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from wsis_d2.benchmarks import run_benchmarks
from wsis_d2.benchmarks.stages import BENCHMARK_REGISTRY
from wsis_d2.errors import UserError

STAGES = [name for name, _ in BENCHMARK_REGISTRY]
#: Branching code whose least work nobody knows.
WITHOUT_FLOOR = {
    *("evaluation_coco", "evaluation_voc", "export"),
    *("proposals_hierarchies", "proposals_nms"),
}


@pytest.mark.slow
def test_every_stage_runs(run_tool, tmp_path):
    file, old = tmp_path / "bench.json", tmp_path / "old.json"
    old.write_text(json.dumps([{"name": "irnet_affinity", "input": "old", "seconds": 1e9}]))
    options = ("--device", "cpu", "--quick", "--profile", "--output", file, "--compare", old)
    completed = run_tool("benchmark.py", *options)
    assert completed.returncode == 0, completed.stderr[-3000:]
    results = json.loads(file.read_text())
    machine, stages = results[0], {r["name"]: r for r in results if "distance" in r}
    assert machine["name"] == "machine"
    assert machine["threads"] == 1
    assert set(stages) == set(STAGES)
    for name, figures in stages.items():
        assert figures["seconds"] > 0, name
        assert figures["cpu_seconds"] > 0, name
        assert figures["peak_megabytes"] >= 0, name
        assert len(figures["profile"]) == 5, name
        assert (figures["distance"] is None) == (name in WITHOUT_FLOOR), name
        assert name in completed.stdout
    comparison = completed.stdout.split("old over new")[1].splitlines()
    assert [line.split("  ")[0] for line in comparison[3:]] == ["irnet_affinity (another input)"]
    assert "1e+09" in comparison[3]


def test_photos_are_what_the_stages_work_on(tmp_path):
    for i, size in enumerate([(60, 80, 3), (90, 50, 3)]):
        image = np.random.default_rng(i).integers(0, 255, size, np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    results = run_benchmarks(images=str(tmp_path), only=["irnet_export"], quick=True)
    (figures,) = (r for r in results if r["name"] == "irnet_export")
    assert figures["input"].endswith("2 images of several sizes")
    assert figures["runs"] == 2


def test_threads_are_as_they_were():
    before = torch.get_num_threads()
    results = run_benchmarks(only=["irnet_affinity"], threads=2, quick=True)
    assert results[0]["threads"] == 2
    assert torch.get_num_threads() == before


def test_the_distance_is_the_time_over_the_floor():
    results = run_benchmarks(only=["irnet_affinity"], quick=True)
    (figures,) = (r for r in results if r["name"] == "irnet_affinity")
    time = min(figures["seconds"], figures["cpu_seconds"])
    assert figures["distance"] == pytest.approx(time / figures["floor_seconds"])
    (rate,) = (r["giga_per_second"] for r in results if r["name"].startswith("matrix product"))
    assert figures["floor_seconds"] >= figures["gflop"] / rate * (1 - 1e-9)
    assert not math.isnan(figures["distance"])


def test_names_that_nobody_knows_are_listed():
    with pytest.raises(UserError, match=r"'walks': choose among cam_inference, .*walk_comparison"):
        run_benchmarks(only=["walks"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UserError, match="--device is 'cuda'"):
        run_benchmarks("cuda")


@pytest.mark.parametrize("edge", [-1, 10, 100_000])
def test_sizes_that_no_stage_can_work_on_are_named(edge):
    with pytest.raises(UserError, match=f"--size is {edge}"):
        run_benchmarks(only=["export"], quick=True, longest_edge=edge)


def test_there_is_at_least_one_thread():
    with pytest.raises(UserError, match="--threads is 0"):
        run_benchmarks(threads=0)
