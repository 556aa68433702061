"""The config that a finished stage has left in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ...files import flat_keys, parse_yaml
from ..setup import load_config

#: Written into a stage's folder by its set-up.
_CONFIG_FILE = "config.yaml"

#: Where a dataset of the user's own lies, which decides nothing: it may have been moved since.
_PLACES = [
    f"DATASETS.{name}.{key}"
    for name in ("OWN_TRAIN", "OWN_TEST")
    for key in ("IMAGE_ROOT", "LABELS")
]


def written_keys(folder: str) -> dict[str, Any]:
    """``SECTION.KEY`` and value of the config in a stage's folder, {} where there is none."""
    try:
        text = Path(folder, _CONFIG_FILE).read_text(encoding="utf-8")
        return dict(flat_keys(parse_yaml(text)))
    except (OSError, ValueError):
        return {}


def load_written_config(folder: str, now: CfgNode | None = None) -> CfgNode:
    """The config with which a stage ran.

    Paths in the recipe's output folder are where that folder is now: it may have been moved or
    copied since.

    Args:
        folder: the stage's.
        now: a config of today, which knows where the user's images and labels are; None: where they
            were.

    Raises:
        UserError: there is no config, or it is damaged.
    """
    opts = _moved_paths(folder)
    places = dict(flat_keys(now)) if now is not None else {}
    for key in _PLACES:
        if places.get(key):
            opts += [key, places[key]]
    return load_config(os.path.join(folder, _CONFIG_FILE), opts)


def _moved_paths(folder: str) -> list[str]:
    """``KEY VALUE`` for what names files below the output folder as it was called."""
    written = written_keys(folder)
    before = os.path.join(os.path.dirname(str(written.get("OUTPUT_DIR", ""))), "")
    now = os.path.join(os.path.dirname(os.path.abspath(folder)), "")
    if before in ("", now) or not os.path.isabs(before):
        return []
    return [
        text
        for key, value in written.items()
        if before in str(value)
        for text in (key, str(value).replace(before, now))
    ]
