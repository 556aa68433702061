"""Why a recipe's stage would run: what has changed since it last did."""

from __future__ import annotations

import os

import yaml
from detectron2.config import CfgNode

from ..engine.stages.files import STAGE_FILE, StageState, deciding_config, outputs_exist
from ..engine.stages.written_config import written_keys
from ..files import flat_keys, read_json

_MOST_SHOWN = 4


def why_stage_runs(cfg: CfgNode, kind: str, state: StageState) -> str:
    """What is missing or has changed, "" where the stage is complete and would be skipped.

    Args:
        cfg: the stage's config; its folder is ``OUTPUT_DIR``.
        kind: what the stage runs.
        state: what it would be run with.
    """
    done = read_json(os.path.join(cfg.OUTPUT_DIR, STAGE_FILE))
    if not done:
        return "not finished" if os.path.isdir(cfg.OUTPUT_DIR) else "never ran"
    if done.get("fingerprint") == state.fingerprint:
        return "" if outputs_exist(cfg.OUTPUT_DIR) else "what it made is gone"
    before = done.get("parts")
    before = before if isinstance(before, dict) else {}
    parts = [name for name, digest in state.parts.items() if before.get(name) != digest]
    changes = [name for name in parts if name != "config"] if before else []
    if not before or "config" in parts:
        changes += _changed_keys(cfg, kind) or ["config"]
    more = len(changes) - _MOST_SHOWN
    shown = ", ".join(changes[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"changed: {shown}"


def _changed_keys(cfg: CfgNode, kind: str) -> list[str]:
    """``KEY old -> new`` for each that decides something; the old ones are of the last run."""
    old = written_keys(cfg.OUTPUT_DIR)
    # As it would be written, tuples as lists among others.
    new = dict(flat_keys(yaml.safe_load(deciding_config(cfg, kind).dump())))
    return [
        f"{key} {old[key]} -> {value}"
        for key, value in new.items()
        if key in old and old[key] != value
    ]
