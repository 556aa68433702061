"""Figures as text."""

import pytest

from wsis_d2.benchmarks import format_comparison, format_results, read_results
from wsis_d2.errors import UserError


def stage(name: str, seconds: float, megabytes: float, what: str = "image") -> dict:
    return {"name": name, "input": what, "seconds": seconds, "peak_megabytes": megabytes}


def cells(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.split("\n")
    ]


def test_ratios_are_old_over_new():
    old = [stage("a", 3.0, 10.0), stage("b", 1.0, 1.0), stage("gone", 1.0, 1.0)]
    new = [stage("a", 1.5, 40.0), stage("b", 1.0, 1.0, "other"), stage("new", 1.0, 1.0)]
    header, _, a, b = cells(format_comparison(new, old))
    assert header == [
        *("name", "old seconds", "new seconds", "speed-up"),
        *("old peak_megabytes", "new peak_megabytes", "memory"),
    ]
    assert a == ["a", "3", "1.5", "2", "10", "40", "0.25"]
    assert b == ["b (another input)", "1", "1", "1", "1", "1", "1"]


def test_figures_that_one_side_does_not_know_are_left_out():
    old = [stage("a", 3.0, None), {"name": "machine", "threads": 1}]  # JSON's NaN
    new = [stage("a", 1.0, 5.0), {"name": "machine", "threads": 2}]
    assert cells(format_comparison(new, old))[2:] == [["a", "3", "1", "3"]]


def test_each_kind_of_figures_has_its_table_and_profiles_stand_below():
    results = [
        {"name": "machine", "threads": 1},
        stage("a", 1.0, 1.0),
        stage("b", 1.0, 1.0)
        | {"profile": [{"operation": "aten::mm", "seconds": 0.25, "share": 0.25}]},
    ]
    machine, stages, profile = format_results(results).split("\n\n")
    assert "threads" in machine
    assert "threads" not in stages
    assert [row[0] for row in cells(stages)[2:]] == ["a", "b"]
    assert profile.split() == ["b:", "25.0", "%", "aten::mm"]


@pytest.mark.parametrize("content", ['{"name": "a"}', '["a"]', '[{"seconds": 1}]', "no JSON"])
def test_files_of_other_content_are_named(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"other\.json"):
        read_results(file)
