#!/usr/bin/env python3
"""Write CONFIG.md: every config key of the plugin, with its default and its comment."""

import argparse
import ast
import io
import itertools
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from wsis_d2 import add_wsis_config
from wsis_d2.engine import run_tool

ROOT = Path(__file__).resolve().parents[1]

HEAD = """\
# Config keys

What the plugin adds to
[Detectron2's own keys](https://detectron2.readthedocs.io/en/latest/modules/config.html). Defaults
are the published VOC settings unless the comment says otherwise; the files in `configs/` say where
a recipe differs. Tools take `KEY VALUE` at their end.

Written by `python tools/write_config_table.py` from the comments in `wsis_d2/config.py`.
"""


def read_comments(source: str) -> dict[str, str]:
    """The comment right above each assignment to a key or a section.

    Args:
        source: Python in which functions assign to attributes of a ``CfgNode``, ``cfg.TEST.X = 1``.
            What a function of the source returns, ``cfg.TEST = _test()``, is a section, whose keys
            that function assigns to a name of one word, ``node.X = 1``.

    Returns:
        Comments by key without ``cfg.``, in the order of the source; "" where there is none.
    """
    lines = _comment_lines(source)
    functions = {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}

    def visit(function: ast.FunctionDef, section: str) -> dict[str, str]:
        comments: dict[str, str] = {}
        for node in function.body:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
                continue
            key = section + ast.unparse(node.targets[0]).partition(".")[2]
            comments[key] = _comment_above(node.lineno, lines)
            called = getattr(getattr(node.value, "func", None), "id", "")
            if called in functions:
                comments |= visit(functions[called], f"{key}.")
        return comments

    # Functions that return a section are visited where they are called.
    roots = [f for f in functions.values() if isinstance(f.returns, ast.Constant)]
    return {key: comment for f in roots for key, comment in visit(f, "").items()}


def _comment_lines(source: str) -> dict[int, str]:
    """Comments that have a line of their own, by its number."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }


def _comment_above(line: int, lines: dict[int, str]) -> str:
    above = itertools.takewhile(lines.__contains__, range(line - 1, 0, -1))
    return " ".join([lines[number] for number in above][::-1])


def added_keys() -> dict[str, Any]:
    """The plugin's keys and their defaults."""
    cfg, stock = get_cfg(), _leaves(get_cfg())
    add_wsis_config(cfg)
    return {key: value for key, value in _leaves(cfg).items() if key not in stock}


def _leaves(cfg: CfgNode, section: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in cfg.items():
        is_section = isinstance(value, CfgNode)
        leaves |= _leaves(value, f"{section}{name}.") if is_section else {section + name: value}
    return leaves


def config_table() -> str:
    """The text of CONFIG.md."""
    comments = read_comments((ROOT / "wsis_d2" / "config.py").read_text(encoding="utf-8"))
    defaults = added_keys()
    sections: dict[str, list[str]] = defaultdict(list)
    for key, comment in comments.items():
        if key in defaults:
            meaning = comment.replace("|", r"\|")  # a bar would end the cell
            row = f"| `{key}` | `{defaults[key]!r}` | {meaning} |"
            sections[key.rpartition(".")[0]].append(row)
    parts = [HEAD]
    for name, rows in sorted(sections.items()):
        parts += [f"## {name}\n"] if name else []
        parts += [f"{comments[name]}\n"] if comments.get(name) else []
        parts += ["\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"]
    return "\n".join(parts)


def main(args: argparse.Namespace) -> None:
    Path(args.output).write_text(config_table(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=str(ROOT / "CONFIG.md"), metavar="FILE")
    raise SystemExit(run_tool(main, parser.parse_args()))
