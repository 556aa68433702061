"""The config that a finished stage has left in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode

from ...files import flat_keys, parse_yaml
from ..setup import load_config

#: Written into a stage's folder by its set-up.
CONFIG_FILE = "config.yaml"


def load_written_config(folder: str) -> CfgNode:
    """The config with which a stage ran.

    Paths in the recipe's output folder are where that folder is now: it may have been moved or
    copied since.

    Args:
        folder: the stage's.

    Raises:
        UserError: there is no config, or it is damaged.
    """
    file = os.path.join(folder, CONFIG_FILE)
    return load_config(file, _moved_paths(file, os.path.abspath(folder)))


def _moved_paths(file: str, folder: str) -> list[str]:
    """``KEY VALUE`` for what names files below the output folder as it was called."""
    try:
        written = dict(flat_keys(parse_yaml(Path(file).read_text(encoding="utf-8"))))
    except (OSError, ValueError):  # load_config says so
        return []
    before = os.path.join(os.path.dirname(str(written.get("OUTPUT_DIR", ""))), "")
    now = os.path.join(os.path.dirname(folder), "")
    if before in ("", now) or not os.path.isabs(before):
        return []
    return [
        text
        for key, value in written.items()
        if before in str(value)
        for text in (key, str(value).replace(before, now))
    ]
