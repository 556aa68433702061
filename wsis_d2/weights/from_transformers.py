"""Networks of ``transformers`` and what prepares their input, from a folder or the hub."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UserError


def load_from_transformers(
    weights: str, *, network: str, processor: str, key: str, needed_by: str, kind: str, example: str
) -> tuple[nn.Module, Any]:
    """A network of ``transformers`` with all its weights, in float32, and its processor.

    ``transformers`` is an extra: ``pip install wsis_d2[sam]``.

    Args:
        weights: a folder as ``save_pretrained`` writes it (``config.json``, ``model.safetensors``,
            ``preprocessor_config.json``, ...), or a name on the Hugging Face hub, which is
            downloaded.
        network: name of the class in ``transformers`` that knows the network, "AutoModelFor...".
        processor: that of the class that knows the processor, "AutoImageProcessor" for one.
        key: the config key that names the weights, for messages.
        needed_by: what needs ``transformers``, likewise.
        kind: what the weights should be of, likewise: "a SAM".
        example: a name on the hub, likewise.

    Raises:
        UserError: ``transformers`` is not installed, or there are no such weights.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{needed_by} needs transformers, which is not installed: pip install wsis_d2[sam]"
        ) from None
    advice = (
        f"set {key} to a folder with the weights of {kind} of transformers, or to its name on the "
        f"Hugging Face hub, such as '{example}'"
    )
    if not weights:
        raise UserError(f"{key} is empty: {advice}")
    try:
        loaded, loading = getattr(transformers, network).from_pretrained(
            weights, dtype=torch.float32, output_loading_info=True
        )
        prepares = getattr(transformers, processor).from_pretrained(weights)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(". ")
        raise UserError(f"'{weights}' cannot be loaded as {kind} ({reason}): {advice}") from error
    if loading["missing_keys"]:
        # They would be random.
        raise UserError(
            f"'{weights}' lacks weights of the network ({min(loading['missing_keys'])}): {advice}"
        )
    return loaded, prepares
