"""Processes on one machine: spawned with gloo, and under torchrun."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from wsis_d2.engine.launch import launch, run_in_fresh_process
from wsis_d2.errors import UserError


def _sum_of_ranks(folder):
    total = torch.tensor(comm.get_rank() + 1)
    dist.all_reduce(total)
    gathered = comm.all_gather({"rank": comm.get_rank(), "local": comm.get_local_rank()})
    (folder / f"rank{comm.get_rank()}").write_text(f"{int(total)} {gathered}")


def _fail_on_second(folder):
    if comm.get_rank() == 1:
        raise UserError("label 'dgo' is no class")
    comm.synchronize()


def _write_pid(path):
    path.write_text(str(os.getpid()))


def test_one_process_runs_in_place(tmp_path):
    launch(_write_pid, 1, args=(tmp_path / "pid",))
    assert (tmp_path / "pid").read_text() == str(os.getpid())


def test_a_fresh_process_is_another_one(tmp_path):
    run_in_fresh_process(_write_pid, (tmp_path / "pid",))
    assert (tmp_path / "pid").read_text() != str(os.getpid())


def test_two_gloo_processes_communicate(tmp_path):
    launch(_sum_of_ranks, 2, dist_url="auto", args=(tmp_path,))
    expected = "3 [{'rank': 0, 'local': 0}, {'rank': 1, 'local': 1}]"
    assert (tmp_path / "rank0").read_text() == expected
    assert (tmp_path / "rank1").read_text() == expected


def test_a_workers_user_error_arrives_as_one_sentence(tmp_path):
    with pytest.raises(UserError) as error:
        launch(_fail_on_second, 2, dist_url="auto", args=(tmp_path,))
    assert str(error.value) == "label 'dgo' is no class"


def test_two_machines_need_an_address():
    with pytest.raises(UserError, match="--dist-url"):
        launch(_write_pid, 1, num_machines=2, dist_url="auto")


def test_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from detectron2.utils import comm\n"
        "from wsis_d2.engine import launch\n"
        "def main(folder):\n"
        "    ranks = comm.all_gather(comm.get_rank())\n"
        "    Path(folder, f'rank{comm.get_rank()}').write_text(str(ranks))\n"
        f"launch(main, 1, args=({str(tmp_path)!r},))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*command, str(script)], check=True, timeout=600, capture_output=True)
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text() == "[0, 1]"
