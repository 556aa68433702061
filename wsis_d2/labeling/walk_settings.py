"""The keys of the random walk, which IRNet's labels and AffinityNet's share."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode


def walk_settings(cfg: CfgNode) -> dict[str, Any]:
    """``cfg.PSEUDO_LABELS.WALK`` as arguments of :func:`wsis_d2.layers.random_walk`, with the
    ``radius`` of the affinities."""
    walk = cfg.PSEUDO_LABELS.WALK
    return {
        "beta": walk.BETA,
        "num_steps": walk.STEPS,
        "radius": walk.RADIUS,
        "method": walk.METHOD,
        "tolerance": walk.TOLERANCE,
    }
