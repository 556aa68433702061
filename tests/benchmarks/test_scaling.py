"""Several processes beside one: the figures, and what is refused."""

import pytest

from wsis_d2.benchmarks import run_benchmarks
from wsis_d2.errors import UserError


def test_two_processes_beside_one(warm_workers):
    rows = run_benchmarks(only=["irnet_affinity"], processes=2, quick=True)
    assert [row["name"] for row in rows] == ["matrix product", "copy", "irnet_affinity"]
    for row in rows:
        assert row["processes"] == 2
        assert row["seconds"] > 0
        assert row["speedup"] == pytest.approx(row["baseline_seconds"] / row["seconds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "--processes is 0: give 1 or more"),
        ({"processes": 2, "threads": 2}, "--processes are of one thread on a CPU"),
        ({"processes": 2, "only": ["walk_comparison"]}, "--only names 'walk_comparison'"),
    ],
)
def test_what_is_not_measured_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        run_benchmarks(**{"only": ["irnet_affinity"], "quick": True, **options})
