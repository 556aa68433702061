"""The check of a GPU: refused without one, and what its JSON file says."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

PASSED = '<testcase classname="tests.gpu.test_a" name="test_fine" time="0.25"/>'
SKIPPED = (
    '<testcase classname="tests.gpu.test_a" name="test_two" time="0">'
    '<skipped message="needs two GPUs"/></testcase>'
)
FAILED = (
    '<testcase classname="tests.gpu.test_b" name="test_x" time="1">'
    '<failure message="no"/></testcase>'
)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    output = tmp_path / "gpu.json"
    done = subprocess.run(
        ["bash", str(ROOT / "tools" / "gpu_check.sh"), str(output)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    assert "finds no CUDA device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_file_holds_tests_and_benchmarks(tool_in_process, tmp_path, fails):
    cases = [PASSED, SKIPPED, *([FAILED] if fails else [])]
    (tmp_path / "tests.xml").write_text(f"<testsuite>{''.join(cases)}</testsuite>")
    (tmp_path / "benchmarks.json").write_text('[{"name": "walk", "seconds": 0.1}]')
    output = tmp_path / "gpu.json"
    code, message = tool_in_process("gpu_report.py", tmp_path, output)
    content = json.loads(output.read_text())
    assert content["tests"]["tests.gpu.test_a::test_fine"] == {"outcome": "passed", "seconds": 0.25}
    assert content["tests"]["tests.gpu.test_a::test_two"]["outcome"] == "skipped"
    assert content["benchmarks"] == [{"name": "walk", "seconds": 0.1}]
    assert content["versions"]["torch"] == torch.__version__
    assert code == (2 if fails else 0)
    assert ("tests.gpu.test_b::test_x" in message) == fails


def test_a_check_that_did_not_run_is_no_success(tool_in_process, tmp_path):
    code, message = tool_in_process("gpu_report.py", tmp_path, tmp_path / "gpu.json")
    assert code == 2
    assert "no test ran" in message


def test_tests_that_were_all_skipped_are_no_success(tool_in_process, tmp_path):
    (tmp_path / "tests.xml").write_text(f"<testsuite>{SKIPPED}</testsuite>")
    (tmp_path / "benchmarks.json").write_text('[{"name": "walk", "seconds": 0.1}]')
    code, message = tool_in_process("gpu_report.py", tmp_path, tmp_path / "gpu.json")
    assert code == 2
    assert "no test ran" in message
