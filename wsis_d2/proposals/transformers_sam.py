"""SAM, SAM 2 and SAM 3 of ``transformers`` as promptable segmenters.

Kirillov et al., "Segment Anything", ICCV 2023; Ravi et al., "SAM 2", 2024; Carion et al., "SAM 3",
2025 (its interactive part). ``transformers`` is an extra: ``pip install wsis_d2[sam]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..weights.from_transformers import load_from_transformers
from .prompted import PROMPTABLE_SEGMENTER_REGISTRY, MaskPrompts, PromptableSegmenter

# Mask prompts are logits: those of a certain pixel are about as high as the models' own outputs.
_CERTAINTY = 1e-4


@dataclass(frozen=True)
class _Embedding:
    """What a network knows of an image.

    Attributes:
        features: (1, C, h, w) maps, one or, with SAM 2 and 3, a list.
        input_size: (height, width) of the network's input.
        extent: (height, width) of the image in it, from its upper left corner on.
    """

    features: Tensor | list[Tensor]
    input_size: tuple[int, int]
    extent: tuple[int, int]


@PROMPTABLE_SEGMENTER_REGISTRY.register()
class TransformersSAM(PromptableSegmenter):
    """A network of ``transformers`` for mask generation: SAM, SAM 2, SAM 3, or one with their
    interface.

    It gives three candidate masks for every prompt.

    Args:
        network: ``SamModel``, ``Sam2Model``, ``Sam3TrackerModel``.
        processor: its image processor: resizes, normalises and, for SAM, pads.
    """

    @configurable
    def __init__(self, *, network: nn.Module, processor: Callable):
        super().__init__()
        self.network = network
        self.processor = processor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PROPOSALS.PROMPTED.WEIGHTS``.

        Raises:
            UserError: ``transformers`` is not installed, or there are no such weights.
        """
        network, processor = load_sam(cfg.PROPOSALS.PROMPTED.WEIGHTS)
        return {"network": network, "processor": processor}

    def embed(self, image: Tensor) -> _Embedding:
        """See :meth:`PromptableSegmenter.embed`."""
        inputs = self.processor(
            images=image, input_data_format="channels_first", return_tensors="pt"
        )
        pixels = inputs["pixel_values"].to(image.device)
        input_size = tuple(pixels.shape[-2:])
        # SAM pads the image to a square, the others stretch it.
        padded = "reshaped_input_sizes" in inputs
        extent = inputs["reshaped_input_sizes"][0].tolist() if padded else input_size
        return _Embedding(self.network.get_image_embeddings(pixels), input_size, tuple(extent))

    def predict(self, embedding: _Embedding, prompts: MaskPrompts) -> tuple[Tensor, Tensor]:
        """See :meth:`PromptableSegmenter.predict`."""
        # Each prompt is a batch entry of its own: that of mask prompts has to be.
        features, count = embedding.features, len(prompts)
        if isinstance(features, Tensor):
            features = features.expand(count, -1, -1, -1)
        else:
            features = [level.expand(count, -1, -1, -1) for level in features]
        output = self.network(
            image_embeddings=features, **self._inputs(embedding, prompts), multimask_output=True
        )
        logits = output.pred_masks[:, 0]
        if embedding.extent != embedding.input_size:
            height, width = embedding.extent
            logits = _resize(logits, embedding.input_size)[..., :height, :width]
        return _resize(logits, prompts.size) > 0, output.iou_scores[:, 0]

    def _inputs(self, embedding: _Embedding, prompts: MaskPrompts) -> dict[str, Tensor]:
        """The network's keyword arguments, in pixels of its input, x before y."""
        inputs: dict[str, Tensor] = {}
        scale = prompts.points.new_tensor(
            [inner / outer for inner, outer in zip(embedding.extent[::-1], prompts.size[::-1])]
        )
        # Networks count from the centre of their first pixel, and so do points, but not boxes.
        if prompts.points.shape[1]:
            points = (prompts.points.flip(-1) + 0.5) * scale - 0.5
            inputs["input_points"] = points[:, None]
            inputs["input_labels"] = prompts.labels[:, None]
        if prompts.boxes is not None:
            inputs["input_boxes"] = (prompts.boxes * scale.repeat(2) - 0.5)[:, None]
        if prompts.masks is not None:
            inputs["input_masks"] = self._mask_inputs(embedding, prompts.masks)
        return inputs

    def _mask_inputs(self, embedding: _Embedding, masks: Tensor) -> Tensor:
        """(P, 1, h, w) logits of the mask prompts, at a quarter of the stride of the features."""
        sides = [4 * side for side in self.network.prompt_encoder.image_embedding_size]
        (height, width), (extent_height, extent_width) = embedding.input_size, embedding.extent
        masks = _resize(masks[:, None], embedding.extent)
        masks = F.pad(masks, (0, width - extent_width, 0, height - extent_height))
        masks = _resize(masks, sides, antialias=True).clamp(0, 1)
        return torch.logit(masks, eps=_CERTAINTY)


def load_sam(weights: str) -> tuple[nn.Module, Any]:
    """A network of ``transformers`` for mask generation and its image processor.

    Args:
        weights: a folder as ``save_pretrained`` writes it (``config.json``, ``model.safetensors``,
            ``preprocessor_config.json``), or a name on the Hugging Face hub, which is downloaded.

    Raises:
        UserError: ``transformers`` is not installed, or there are no such weights.
    """
    return load_from_transformers(
        weights,
        network="AutoModelForMaskGeneration",
        processor="AutoImageProcessor",
        key="PROPOSALS.PROMPTED.WEIGHTS",
        needed_by="PROPOSALS.PROMPTED.SEGMENTER 'TransformersSAM'",
        kind="a SAM",
        example="facebook/sam2.1-hiera-base-plus",
    )


def _resize(maps: Tensor, size: Any, antialias: bool = False) -> Tensor:
    maps = maps.float()
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=antialias)
