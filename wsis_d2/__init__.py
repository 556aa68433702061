"""Weakly supervised instance segmentation for Detectron2.

Importing the package registers its datasets, backbones, meta-architectures and label generators;
:func:`add_wsis_config` adds its keys to a Detectron2 config. :func:`pseudo_label` runs the whole
job on a folder of images.
"""

import warnings
from typing import Any

__version__ = "0.2.0"

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "wsis_d2 is a plugin of Detectron2, which is not installed in this environment: install it "
        "from its repository, or run 'bash tools/setup_env.sh' in a clone of wsis_d2"
    ) from error

with warnings.catch_warnings():
    # fvcore compiles a few functions by it when it is imported, which no user can help.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    from . import data, labeling, modeling, weights  # noqa: F401  (they register themselves)

from .config import add_wsis_config

__all__ = ["PseudoLabels", "__version__", "add_wsis_config", "pseudo_label"]


def __getattr__(name: str) -> Any:
    """What needs the engine, which those do not import who use models or layers alone."""
    if name in ("PseudoLabels", "pseudo_label"):
        from . import recipes

        return getattr(recipes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
