"""The parts of ``transformers``' Mask2Former that follow the backbone.

``transformers`` is an extra (``pip install wsis_d2[sam]``); importing this module imports it, so
:mod:`.mask2former` does that late.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """From the features of a backbone to classes and masks, and from these to the losses.

    The modules, their initialisation and the losses are those of
    ``Mask2FormerForUniversalSegmentation``, without its backbone.

    Args:
        config: its ``backbone_config`` is not used.
        channels: of the features, finest first: four of them, the strides of which are in
            ``config.feature_strides``.
    """

    def __init__(self, config: Mask2FormerConfig, channels: Sequence[int]):
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(channels))
        self.transformer_module = Mask2FormerTransformerModule(config.feature_size, config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.loss_weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.criterion = DistributedMask2FormerLoss(config, self.loss_weights)
        self.post_init()

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            features: (N, C_i, h_i, w_i), finest first.

        Returns:
            For the learned queries and for each layer of the decoder, the last one last, logits of
            the classes, (N, Q, K + 1), "no object" last, and of the masks, (N, Q, h_0, w_0).
        """
        # As published: the pixel decoder in float32, the transformer in the precision of training.
        with torch.autocast(features[0].device.type, enabled=False):
            pixels = self.pixel_decoder([feature.float() for feature in features])
        decoded = self.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
        )
        states = decoded.intermediate_hidden_states  # (Q, N, C)
        classes = [self.class_predictor(state.transpose(0, 1)) for state in states]
        return classes, list(decoded.masks_queries_logits)

    def losses(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        classes: list[Tensor],
        masks: list[Tensor],
    ) -> dict[str, Tensor]:
        """The weighted losses of every layer, in float32.

        Args:
            class_logits: see :meth:`forward`.
            mask_logits: see :meth:`forward`.
            classes: (T,) int64 of each image's true objects.
            masks: (T, H, W) float32, 0 or 1, of each image's, all images padded to one size.

        Returns:
            ``loss_cross_entropy``, ``loss_mask`` and ``loss_dice`` of the last layer; those of the
            others end in ``_0``, ``_1``, ...
        """
        layers = [
            {"class_queries_logits": c.float(), "masks_queries_logits": m.float()}
            for c, m in zip(class_logits, mask_logits)
        ]
        with torch.autocast(class_logits[0].device.type, enabled=False):
            losses = self.criterion(
                **layers[-1],
                class_labels=classes,
                mask_labels=masks,
                auxiliary_predictions=layers[:-1],
            )
        return {name: loss * self._weight(name) for name, loss in losses.items()}

    def _weight(self, name: str) -> float:
        return next(w for loss, w in self.loss_weights.items() if name.startswith(loss))


class DistributedMask2FormerLoss(Mask2FormerLoss):
    """The loss of ``transformers``, which knows of other processes through ``accelerate`` alone."""

    def __init__(self, config: Mask2FormerConfig, weight_dict: dict[str, float]):
        super().__init__(config, weight_dict)
        # No weight that is learned: a checkpoint should not decide on it.
        self.register_buffer("empty_weight", self.empty_weight, persistent=False)

    def get_num_masks(self, class_labels: list[Tensor], device: torch.device) -> Tensor:
        """The number of true masks per process, at least 1: that by which mask losses are divided.

        Args:
            class_labels: (T,) of each of this process's images.
            device: of the result.
        """
        count = torch.tensor(float(sum(map(len, class_labels))), device=device)
        if comm.get_world_size() > 1:
            dist.all_reduce(count)
        return (count / comm.get_world_size()).clamp(min=1)
