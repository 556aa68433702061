"""Freed memory is used again: large arrays cost no page faults after the first."""

import os
import platform
import resource
import subprocess
import sys

import pytest
from conftest import ROOT

# The module by itself: importing the package takes seconds.
SCRIPT = """
import resource
import runpy
import sys

import numpy as np

keep_freed_memory = runpy.run_path(sys.argv[2])["keep_freed_memory"]
print(sys.argv[1] == "keep" and keep_freed_memory())
for number in range(11):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = np.ones(16_000_000)  # more than glibc ever takes from its heap by itself
    del array
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 128_000_000 // resource.getpagesize()

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")


def _run(how: str, env: dict[str, str]) -> tuple[str, int]:
    command = [sys.executable, "-c", SCRIPT, how, ROOT / "wsis_d2" / "allocator.py"]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    kept, faults = printed.split()
    return kept, int(faults)


@pytest.fixture
def environment():
    """The environment without what a user may have chosen."""
    chosen = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {k: v for k, v in os.environ.items() if not k.startswith(chosen)}


def test_pages_of_large_arrays_are_used_again(environment):
    kept, faults = _run("keep", environment)
    assert kept == "True"
    assert faults < PAGES / 100


def test_without_it_every_array_has_new_pages(environment):
    _, faults = _run("plain", environment)
    assert faults > PAGES / 600  # huge pages have 512 of these


@pytest.mark.parametrize(
    "choice", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}]
)
def test_what_the_user_has_chosen_stays(environment, choice):
    assert _run("keep", {**environment, **choice})[0] == "False"
