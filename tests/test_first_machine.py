"""Two "machines" on one file system: the second waits for what the first does alone."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsis_d2.engine.stages.files import StageState
from wsis_d2.errors import UserError
from wsis_d2.files import write_json
from wsis_d2.first_machine import SIGNS_FILE, FirstMachine, signs_of_life
from wsis_d2.recipes import run as runner


@pytest.fixture
def wait(tmp_path):
    """The second machine, which has begun to look already, waits for the file ``work``."""
    first = FirstMachine(str(tmp_path), patience=5.0, poll_seconds=0.01)
    return lambda: first.wait_for((tmp_path / "work").is_file, "stage 'seeds'")


@pytest.fixture
def second_machine():
    """A thread to call ``submit`` of."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_the_second_machine_waits_until_the_work_is_there(tmp_path, wait, second_machine):
    with signs_of_life(str(tmp_path), beat_seconds=0.02):
        waiting = second_machine.submit(wait)
        time.sleep(0.2)
        assert not waiting.done()
        (tmp_path / "work").touch()
        waiting.result(60)


def test_work_longer_than_the_patience(tmp_path, second_machine):
    first = FirstMachine(str(tmp_path), patience=1.0, poll_seconds=0.01)
    with signs_of_life(str(tmp_path), beat_seconds=0.02):
        waiting = second_machine.submit(first.wait_for, (tmp_path / "work").is_file, "seeds")
        time.sleep(2.5)
        (tmp_path / "work").touch()
        waiting.result(60)


def test_the_first_machine_fails(tmp_path, wait):
    with (
        pytest.raises(UserError, match="no images"),
        signs_of_life(str(tmp_path), beat_seconds=0.02),
    ):
        raise UserError("there are no images")
    with pytest.raises(UserError, match=r"stage 'seeds' was done \(there are no images\)"):
        wait()


def test_the_first_machine_ends_without_the_work(tmp_path, wait):
    with signs_of_life(str(tmp_path)):
        pass
    with pytest.raises(UserError, match="stage 'seeds' is not as this machine expects it"):
        wait()


@pytest.mark.parametrize("state", ["running", "failed", "done"])
def test_what_an_earlier_run_left_is_no_sign_of_this_one(tmp_path, state):
    write_json(tmp_path / SIGNS_FILE, {"run": "old", "state": state, "beat": 3})
    first = FirstMachine(str(tmp_path), patience=0.2, poll_seconds=0.01)
    with pytest.raises(UserError, match="no sign of life from the first machine in 0 s"):
        first.wait_for(lambda: False, "stage 'seeds'")


def _wait_and_go_on(recipe, stage, output, opts, resume, state):
    time.sleep(1)
    assert not (output / "after").exists()
    write_json(output / stage.name / "outputs.json", {"files": {}})  # it has made nothing
    write_json(output / stage.name / runner.STAGE_FILE, {"fingerprint": state.fingerprint})


def test_a_recipes_second_machine_waits_for_a_stage_of_the_first(
    tmp_path, monkeypatch, second_machine
):
    monkeypatch.setattr(runner, "run_in_fresh_process", lambda run, args: run(*args))
    monkeypatch.setattr(runner, "_run_stage", _wait_and_go_on)
    stage = runner.Stage("masks", "proposals")
    args = (None, stage, tmp_path, [], False, StageState("abc", {}))

    def run_second_machine():
        runner._run_in_new_processes((1, 2, 1, "tcp://host:1"), stage, args)
        (tmp_path / "after").touch()

    waiting = second_machine.submit(run_second_machine)
    runner._run_in_new_processes((1, 2, 0, "tcp://host:1"), stage, args)
    waiting.result(60)
    assert (tmp_path / "after").exists()
