"""Spread maps between the pixels of an image that look alike to a network.

Source: Wang, Zhang, Kan, Shan and Chen, "Self-supervised Equivariant Attention Mechanism for Weakly
Supervised Semantic Segmentation" (SEAM), CVPR 2020, section 3.3, the pixel correlation module. Here
without its learnt embedding: the features of a trained classifier are correlated as they are, each
level with the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["correlate_pixels"]

#: Correlations that are in memory at once: 64 MB of float32.
_CORRELATIONS_AT_ONCE = 1 << 24


def correlate_pixels(maps: Tensor, features: Sequence[Tensor], power: float = 3.0) -> Tensor:
    """The average of maps over all pixels, weighted by how alike the pixels' features are.

    The weight of q in the average of p is max(0, s(p, q))^power, where s is the mean over the
    features of their cosine similarity. Features of another size are resized to that of the maps,
    averaged over areas where they are finer.

    Time is quadratic in the number of pixels, memory linear.

    Args:
        maps: (N, K, h, w) float.
        features: (N, C, h', w') float each, of the same images; at least one.
        power: positive; the higher, the more a pixel keeps to those that are most like it.

    Returns:
        (N, K, h, w), of the type of ``maps`` and between its least and greatest value.

    Raises:
        ValueError: no feature, features of another number of images, or ``power`` is not positive.
    """
    if not features or any(len(feature) != len(maps) for feature in features):
        raise ValueError(
            f"pixels of {len(maps)} images are correlated by one or more features of these images, "
            f"got features of {[len(feature) for feature in features]}"
        )
    if power <= 0:
        raise ValueError(f"the power of a correlation must be positive, got {power}")
    size = maps.shape[-2:]
    units = [F.normalize(_resize(feature, size).flatten(2), dim=1) for feature in features]
    embeddings = torch.cat(units, dim=1) / len(units) ** 0.5
    averages = [_average(m.flatten(1), e, power) for m, e in zip(maps, embeddings)]
    return torch.stack(averages).view_as(maps)


def _average(maps: Tensor, embedding: Tensor, power: float) -> Tensor:
    """(K, P) maps averaged by the correlations of a (C, P) embedding."""
    rows = max(1, _CORRELATIONS_AT_ONCE // embedding.shape[1])
    averages = []
    for some in embedding.split(rows, dim=1):
        weights = (some.T @ embedding).clamp_(min=0).pow_(power).to(maps.dtype)
        # A pixel whose features are all 0 is like no other, and like itself.
        total = weights.sum(dim=1)
        averages.append((maps @ weights.T) / total.clamp(min=1e-12))
    averages = torch.cat(averages, dim=1)
    return torch.where(embedding.abs().amax(dim=0) > 0, averages, maps)


def _resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if feature.shape[-2:] == size:
        return feature
    if all(old >= new for old, new in zip(feature.shape[-2:], size)):
        return F.interpolate(feature, size, mode="area")
    return F.interpolate(feature, size, mode="bilinear", align_corners=False)
