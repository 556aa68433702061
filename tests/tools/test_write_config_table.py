"""CONFIG.md names every key of the plugin once, with the comment that it has in config.py."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "write_config_table.py"))


@pytest.fixture(scope="module")
def comments(tool):
    return tool["read_comments"]((ROOT / "wsis_d2" / "config.py").read_text())


def test_the_committed_file_is_what_the_command_writes(tool):
    written = (ROOT / "CONFIG.md").read_text(encoding="utf-8")
    assert written == tool["config_table"](), "run python tools/write_config_table.py"


def test_every_key_has_a_comment(tool, comments):
    keys = tool["added_keys"]()
    assert len(keys) > 100
    assert [key for key in keys if not comments.get(key)] == []


def test_every_key_has_a_row(tool):
    rows = [line for line in tool["config_table"]().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(tool["added_keys"]())


def test_comments_are_those_right_above(tool):
    source = '''
def add(cfg: CN) -> None:
    """Keys."""
    # Of the section.
    cfg.A = CN()
    # Two
    # lines.
    cfg.A.X = 1  # not this one
    cfg.A.Y = "# nor this"

    # Far away.

    cfg.A.Z = 2
    # A part.
    cfg.A.PART = _part()


def _part() -> CN:
    node = CN()
    # Its own.
    node.NAME = ""
    return node
'''
    assert tool["read_comments"](source) == {
        "A": "Of the section.",
        "A.X": "Two lines.",
        "A.Y": "",
        "A.Z": "",
        "A.PART": "A part.",
        "A.PART.NAME": "Its own.",
    }
