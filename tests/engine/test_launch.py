"""Processes on one machine: spawned with gloo, and under torchrun."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from wsis_d2.engine import lazy_device
from wsis_d2.engine.launch import (
    _warn_of_missing_gpus,
    launch,
    launch_from_args,
    run_in_fresh_process,
)
from wsis_d2.errors import UserError
from wsis_d2.evaluation import PatientEvaluators

pytestmark = pytest.mark.usefixtures("warm_workers")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


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


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0,), "--num-gpus is 0"),
        ((-2,), "--num-gpus is -2"),
        ((2, 0), "--num-machines is 0"),
        ((2, 1, 5), "--machine-rank is 5, but the ranks of --num-machines 1 are 0 to 0"),
        ((2, 2, -1), "--machine-rank is -1, but"),
    ],
)
def test_numbers_that_are_none_of_a_job(numbers, message):
    with pytest.raises(UserError, match=message):
        launch(_write_pid, *numbers)


def test_two_machines_need_an_address():
    with pytest.raises(UserError, match="--dist-url"):
        launch(_write_pid, 1, num_machines=2, dist_url="auto")


class _SlowOnMainProcess:
    """An evaluator that takes longer than the timeout of the job's collective operations."""

    def evaluate(self):
        comm.synchronize()
        if not comm.is_main_process():
            return {}
        time.sleep(12)
        return {"slow": {"AP": 1.0}}


class _Gathering:
    """One that comes after it, and whose processes meet at once."""

    def evaluate(self):
        ranks = comm.gather(comm.get_rank())
        return {"ranks": {"all": ranks}} if ranks else {}


def _work_long_on_main_process(folder):
    comm.synchronize()
    # Only now: the processes may be long in starting.
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=5))
    results = PatientEvaluators([_SlowOnMainProcess(), _Gathering()]).evaluate()
    if comm.is_main_process():
        time.sleep(12)  # the end of the job waits too
    (folder / f"rank{comm.get_rank()}").write_text(str({k: dict(v) for k, v in results.items()}))


@pytest.mark.slow
def test_long_work_on_the_main_process_outlives_the_timeout(tmp_path):
    launch(_work_long_on_main_process, 2, dist_url="auto", args=(tmp_path,))
    expected = "{'slow': {'AP': 1.0}, 'ranks': {'all': [0, 1]}}"
    assert (tmp_path / "rank0").read_text() == expected
    assert (tmp_path / "rank1").read_text() == "{}"


def _torchrun(folder, body):
    """Run ``main`` with this body in two processes, which write what is left when they leave."""
    script = folder / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from detectron2.utils import comm\n"
        "from wsis_d2.engine.launch import launch\n"
        f"folder = Path({str(folder)!r})\n"
        "def threads():\n"
        "    names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]\n"
        "    return sum('gloo' in name for name in names)\n"
        f"def main():\n{body}"
        "rank = os.environ['RANK']\n"
        "launch(main, 1)\n"
        "left = [path.name for path in folder.glob('done*')]\n"
        "(folder / f'left{rank}').write_text(f'{sorted(left)} {threads()} threads')\n"
    )
    return subprocess.run([*TORCHRUN, str(script)], timeout=600, capture_output=True, text=True)


def test_nobody_leaves_torchruns_group_before_all_are_done_and_no_thread_stays(tmp_path):
    body = (
        "    ranks = comm.all_gather(comm.get_rank())  # Detectron2 caches the group\n"
        "    (folder / f'rank{comm.get_rank()}').write_text(str(ranks))\n"
        "    assert threads() > 0\n"
        "    time.sleep(2 * comm.get_rank())\n"
        "    (folder / f'done{comm.get_rank()}').touch()\n"
    )
    completed = _torchrun(tmp_path, body)
    assert completed.returncode == 0, completed.stderr[-3000:]
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == "[0, 1]"
        left = (tmp_path / f"left{rank}").read_text()
        assert left == "['done0', 'done1'] 0 threads"


def test_an_error_in_one_of_torchruns_processes_does_not_wait_for_the_others(tmp_path):
    body = (
        "    comm.synchronize()\n"
        "    if comm.get_rank() == 1:\n"
        "        raise ValueError('no such picture')\n"
    )
    # The other process waits for this one at its end.
    completed = _torchrun(tmp_path, body)
    assert completed.returncode != 0
    assert "no such picture" in completed.stderr
    assert not list(tmp_path.glob("left*"))


@pytest.mark.slow
def test_ten_launches_in_a_row(tmp_path):
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        launch(_sum_of_ranks, 2, dist_url="auto", args=(folder,))
        assert (folder / "rank1").read_text().startswith("3 ")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "auto"),
        (["--dist-url", "tcp://127.0.0.1:5"], "tcp://127.0.0.1:5"),
        (["--num-machines", "2", "--dist-url", "tcp://10.0.0.1:5"], "tcp://10.0.0.1:5"),
    ],
)
def test_a_second_job_on_a_machine_finds_a_port(monkeypatch, options, expected):
    asked = []
    # wsis_d2.engine.launch is the function; its module has the same name.
    module = sys.modules[launch_from_args.__module__]
    monkeypatch.setattr(module, "launch", lambda *_, dist_url, **__: asked.append(dist_url))
    launch_from_args(None, default_argument_parser().parse_args(["--num-gpus", "2", *options]))
    assert asked == [expected]


def test_processes_that_compute_on_the_cpu_talk_by_gloo_although_there_are_gpus(
    monkeypatch, torchrun_alone
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backends = []
    launch(lambda: backends.append(dist.get_backend()), 1, device="cpu")
    assert backends == ["gloo"]
    assert not dist.is_initialized()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_jobs_on_gpus_need_as_many_as_processes(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started = []
    module = sys.modules[launch.__module__]
    monkeypatch.setattr(module, "run_processes", lambda *args: started.append(args[1]))
    if device == "cpu":
        launch(_write_pid, 2, device=device)
        assert started == [2]
    else:
        with pytest.raises(UserError, match="--num-gpus is 2, but this machine has 1 GPU"):
            launch(_write_pid, 2, device=device)


def test_a_job_without_gpus_says_so_once_and_how_many_processes_it_has(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = sys.modules[launch.__module__]
    monkeypatch.setattr(module, "run_processes", lambda *_: None)
    _warn_of_missing_gpus.cache_clear()
    launch(_write_pid, 8, device="cpu")  # as asked for
    assert not caplog.records
    for _ in range(2):
        launch(_write_pid, 8)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "8 processes compute on this machine's CPU" in record.getMessage()


@pytest.mark.parametrize(("options", "expected"), [([], "cuda"), (["MODEL.DEVICE", "cpu"], "cpu")])
def test_the_device_is_that_of_the_config(monkeypatch, options, expected):
    devices = []
    module = sys.modules[launch_from_args.__module__]
    monkeypatch.setattr(module, "launch", lambda *_, device, **__: devices.append(device))
    launch_from_args(None, default_argument_parser().parse_args(["--num-gpus", "2", *options]))
    overrides = [f"train.device={value}" for value in options[1:]]
    arguments = ["--num-gpus", "2", "train.max_iter=3", *overrides]
    launch_from_args(None, default_argument_parser().parse_args(arguments), lazy_device)
    assert devices == [expected, expected]
