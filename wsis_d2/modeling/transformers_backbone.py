"""Any backbone of ``transformers`` as a Detectron2 backbone: published Mask2Formers stand on Swin.

``transformers`` is an extra: ``pip install wsis_d2[sam]``.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ..errors import UserError

__all__ = ["TransformersBackbone", "build_transformers_backbone"]

_LEVELS = ("res2", "res3", "res4", "res5")
# Of the image by which a network is tried.
_SIDE = 64


class TransformersBackbone(Backbone):
    """The last four stages of a network of ``transformers``, as "res2" to "res5".

    Args:
        network: of ``AutoBackbone``, with four ``channels`` or more.

    Raises:
        UserError: the network gives fewer features.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        channels = network.channels[-len(_LEVELS) :]
        if len(channels) < len(_LEVELS):
            raise UserError(
                f"the backbone that MODEL.TRANSFORMERS.NAME names gives {len(channels)} feature "
                f"map(s), not {len(_LEVELS)}: choose another, or more out_features in its config"
            )
        self.network = network
        self._out_features = list(_LEVELS)
        self._out_feature_channels = dict(zip(_LEVELS, channels))
        was_training = network.training
        features = _try(self.eval())
        network.train(was_training)
        self._out_feature_strides = {
            name: _SIDE // feature.shape[-1] for name, feature in features.items()
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) to {name: (N, channels, ceil(H / stride), ...)}."""
        return dict(zip(_LEVELS, self.network(x).feature_maps[-len(_LEVELS) :]))


def _try(backbone: TransformersBackbone) -> dict[str, Tensor]:
    """The features of an image; what gives none of them (Swin's last normalisation) is frozen, for
    DDP would wait for its gradient."""
    features = backbone(torch.zeros(1, 3, _SIDE, _SIDE))
    parameters = list(backbone.parameters())
    total = sum(feature.sum() for feature in features.values())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad_(gradient is not None)
    return features


@BACKBONE_REGISTRY.register()
def build_transformers_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TransformersBackbone:
    """The backbone that ``cfg.MODEL.TRANSFORMERS.NAME`` describes, with random weights.

    ``MODEL.BACKBONE.FREEZE_AT`` is not read: everything trains.

    Raises:
        UserError: ``transformers`` is not installed, or there is no such backbone.
    """
    name = cfg.MODEL.TRANSFORMERS.NAME
    try:
        from transformers import AutoBackbone, AutoConfig
    except ImportError:
        raise UserError(
            f"MODEL.TRANSFORMERS.NAME is '{name}', but transformers is not installed: pip install "
            "wsis_d2[sam]"
        ) from None
    try:
        config = AutoConfig.from_pretrained(name)
        network = AutoBackbone.from_config(getattr(config, "backbone_config", None) or config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(". ")
        raise UserError(
            f"MODEL.TRANSFORMERS.NAME is '{name}', of which no backbone can be built ({reason}): "
            "name a folder with the config.json of a model of transformers, or a model on the "
            "Hugging Face hub"
        ) from error
    return TransformersBackbone(network)
