"""Weights of ``transformers``' Mask2Former by the names of our ``HFMask2Former``."""

from __future__ import annotations

import os

from torch import Tensor

from ..errors import UserError
from ..files import read_json

#: Their modules -> ours. The backbone's are those of ``build_transformers_backbone``.
_MODULES = {
    "model.pixel_level_module.encoder.": "backbone.network.",
    "model.pixel_level_module.decoder.": "head.pixel_decoder.",
    "model.transformer_module.": "head.transformer_module.",
    "class_predictor.": "head.class_predictor.",
}


def is_mask2former(filename: str) -> bool:
    """Whether the ``config.json`` beside a file of weights says that they are a Mask2Former."""
    config = read_json(os.path.join(os.path.dirname(filename), "config.json"))
    return config.get("model_type") == "mask2former"


def read_mask2former(filename: str) -> dict[str, Tensor]:
    """The weights of a folder that ``Mask2FormerForUniversalSegmentation`` saved.

    ``transformers`` reads them, because it knows the names that its versions gave them.

    Args:
        filename: ``model.safetensors``, with ``config.json`` beside it.

    Raises:
        UserError: ``transformers`` is not installed.
    """
    try:
        from transformers import Mask2FormerForUniversalSegmentation
    except ImportError:
        raise UserError(
            f"{filename} is read with transformers, which is not installed: pip install "
            "wsis_d2[sam]"
        ) from None
    network, loading = Mask2FormerForUniversalSegmentation.from_pretrained(
        os.path.dirname(filename), output_loading_info=True
    )
    return {
        ours + name.removeprefix(theirs): weight
        for name, weight in network.state_dict().items()
        for theirs, ours in _MODULES.items()
        # What the file lacks is random.
        if name.startswith(theirs) and name not in loading["missing_keys"]
    }
