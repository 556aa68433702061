"""Grounding DINO, OWLv2 and OWL-ViT of ``transformers`` as open-vocabulary detectors.

Liu et al., "Grounding DINO", ECCV 2024; Minderer, Gritsenko and Houlsby, "Scaling Open-Vocabulary
Object Detection" (OWLv2), NeurIPS 2023; Minderer et al., "Simple Open-Vocabulary Object Detection"
(OWL-ViT), ECCV 2022. ``transformers`` is an extra: ``pip install wsis_d2[sam]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..errors import UserError
from ..weights.from_transformers import load_from_transformers
from .text_detector import TEXT_DETECTOR_REGISTRY, TextDetector

_OWL, _GROUNDING_DINO = ("owlv2", "owlvit"), ("grounding-dino", "mm-grounding-dino")

# What the texts of OWL's evaluation look like.
_OWL_TEMPLATE = "a photo of a {}"

# Grounding DINO tells phrases apart by these.
_SEPARATORS = ".?"


@TEXT_DETECTOR_REGISTRY.register()
class TransformersDetector(TextDetector):
    """A network of ``transformers`` for zero-shot object detection: Grounding DINO (also MM
    Grounding DINO), OWLv2 or OWL-ViT.

    Grounding DINO reads all texts at once, so that the boxes of one depend on the others, and as
    many at a time as it has room for; the score of a text is the mean over its tokens, as in the
    released evaluation on COCO. OWL scores each text by itself.

    Args:
        network: ``GroundingDinoForObjectDetection``, ``Owlv2ForObjectDetection``, ...
        processor: its processor, of which the image processor and the tokenizer are used.

    Raises:
        UserError: the network is another one.
    """

    @configurable
    def __init__(self, *, network: nn.Module, processor: Any):
        super().__init__()
        self.family = network.config.model_type
        if self.family not in (*_OWL, *_GROUNDING_DINO):
            raise UserError(
                f"PSEUDO_LABELS.TEXT_BOXES.WEIGHTS are of a network '{self.family}': choose one of "
                f"{', '.join((*_GROUNDING_DINO, *_OWL))}"
            )
        self.texts_are_independent = self.family in _OWL
        self.network = network
        self.processor = processor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.TEXT_BOXES.WEIGHTS``.

        Raises:
            UserError: ``transformers`` is not installed, or there are no such weights.
        """
        network, processor = load_from_transformers(
            cfg.PSEUDO_LABELS.TEXT_BOXES.WEIGHTS,
            network="AutoModelForZeroShotObjectDetection",
            processor="AutoProcessor",
            key="PSEUDO_LABELS.TEXT_BOXES.WEIGHTS",
            needed_by="PSEUDO_LABELS.TEXT_BOXES.DETECTOR 'TransformersDetector'",
            kind="a Grounding DINO or OWLv2",
            example="IDEA-Research/grounding-dino-tiny",
        )
        return {"network": network, "processor": processor}

    def detect(self, image: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See :meth:`TextDetector.detect`."""
        inputs = self.processor.image_processor(
            images=image, input_data_format="channels_first", return_tensors="pt"
        )
        inputs = {key: value.to(self.network.device) for key, value in inputs.items()}
        detect = self._detect_owl if self.family in _OWL else self._detect_grounding_dino
        boxes, scores = detect(inputs, texts)
        height, width = image.shape[1:]
        if self.family == "owlv2":  # which sees the image padded to a square, at the right or below
            height = width = max(height, width)
        boxes = box_convert(boxes.float(), "cxcywh", "xyxy")
        return boxes * boxes.new_tensor([width, height, width, height]), scores.float()

    def _detect_owl(self, inputs: dict[str, Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.processor.tokenizer(
            [_OWL_TEMPLATE.format(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.network.device)
        output = self.network(
            **inputs, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return output.pred_boxes[0], output.logits[0].sigmoid()

    def _detect_grounding_dino(
        self, inputs: dict[str, Tensor], texts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        texts = [_as_phrase(text) for text in texts]
        boxes, scores = [], []
        for part in self._parts(texts):
            tokens = self.processor.tokenizer(
                "".join(f"{text}. " for text in texts[part]).strip(),
                truncation=True,
                max_length=self.network.config.max_text_len,
                return_tensors="pt",
            ).to(self.network.device)
            output = self.network(**inputs, **tokens)
            of_tokens = output.logits[0].sigmoid()
            of_texts = of_tokens.new_zeros(len(of_tokens), len(texts))
            phrases = self._phrases(tokens["input_ids"][0], part.stop - part.start)
            of_texts[:, part] = of_tokens[:, : phrases.shape[1]] @ phrases.T
            boxes.append(output.pred_boxes[0])
            scores.append(of_texts)
        return torch.cat(boxes), torch.cat(scores)

    def _parts(self, texts: Sequence[str]) -> Iterator[slice]:
        """As many texts at a time as the network has room for, at least one."""
        tokenizer = self.processor.tokenizer
        limit = self.network.config.max_text_len - tokenizer.num_special_tokens_to_add()
        start = length = 0
        for i, text in enumerate(texts):
            added = len(tokenizer(f"{text}.", add_special_tokens=False)["input_ids"])
            if i > start and length + added > limit:
                yield slice(start, i)
                start, length = i, 0
            length += added
        yield slice(start, len(texts))

    def _phrases(self, token_ids: Tensor, count: int) -> Tensor:
        """(count, L) float: which of L tokens are of each phrase; those of one sum to 1."""
        tokenizer = self.processor.tokenizer
        is_end = token_ids == tokenizer.convert_tokens_to_ids(".")
        is_word = ~is_end & ~torch.isin(token_ids, token_ids.new_tensor(tokenizer.all_special_ids))
        of_phrase = is_end.cumsum(0) == torch.arange(count, device=token_ids.device)[:, None]
        phrases = (of_phrase & is_word).float()
        return phrases / phrases.sum(1, keepdim=True).clamp(min=1)


def _as_phrase(text: str) -> str:
    """A text as Grounding DINO wants it: in lower case, without what ends a phrase."""
    return " ".join(re.sub(f"[{re.escape(_SEPARATORS)}]", " ", text.lower()).split())
