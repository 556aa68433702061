"""Where are the objects, and how many? At class peaks, as many as the counts allow."""

from __future__ import annotations

import dataclasses

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ...errors import UserError
from .base import LOCALIZER_REGISTRY, LocationCues
from .peaks import PRMPeaks


@LOCALIZER_REGISTRY.register()
class DensityPeaks(PRMPeaks):
    """Peaks of a network that also counts (Cholakkal et al., CVPR 2019), and its density maps.

    An image has as many objects of a class as its label counts, where that count is exact. Where it
    is open ("more than four") or unknown, the sum of the predicted density says how many there are,
    but at least one more than the last exact count, or one. The density maps of the cues, not
    negative, are scaled to these sums.

    The published retrieval takes all peaks above a threshold and leaves it to the density in the
    proposals to tell objects from parts. Here the count bounds the number of peaks too, at
    ``peaks_per_object`` for each object: more than one, because the strongest peaks may share an
    object (suppression of masks unites them again) and leave others without one.

    Args:
        peaks_per_object: at most this many peaks of a class, on average, for each of its objects.
        kwargs: see :class:`PRMPeaks`; ``network`` is a :class:`wsis_d2.modeling.DensityPRM`.
    """

    @configurable
    def __init__(self, *, peaks_per_object: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        if not hasattr(self.network, "response_and_density_maps"):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is '{type(self.network).__name__}', which does not "
                "count: use the config of a DensityPRM, or another PSEUDO_LABELS.LOCALIZER"
            )
        self.peaks_per_object = peaks_per_object

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.DENSITY`` too."""
        peaks_per_object = cfg.PSEUDO_LABELS.DENSITY.PEAKS_PER_OBJECT
        return {**super().from_config(cfg), "peaks_per_object": peaks_per_object}

    @torch.no_grad()
    def forward(self, x: dict) -> LocationCues:
        """See :meth:`Localizer.forward`.

        Args:
            x: with ``image_counts`` (K,), the lower counts of ``image_labels``, where known.
        """
        image = self.network.preprocess([x]).tensor
        maps, density = self.network.response_and_density_maps(image)
        density = density[0].float().clamp(min=0)
        labels = torch.as_tensor(x["image_labels"]).to(density.device)
        predicted = density[labels].sum((1, 2))
        counts = self.object_counts(predicted, x.get("image_counts"))
        density[labels] *= (counts / predicted.clamp(min=1e-6))[:, None, None]
        num_peaks = (self.peaks_per_object * counts.round()).ceil().long()
        cues = self._locate(x, image, maps, num_peaks)
        return dataclasses.replace(cues, density_maps=density)

    def object_counts(self, predicted: Tensor, lower_counts: Tensor | None) -> Tensor:
        """How many objects of each labelled class an image has.

        Args:
            predicted: (K,) float, sums of the density.
            lower_counts: (K,), up to the network's ``max_count`` or one more for any larger count;
                0 or None where unknown.

        Returns:
            (K,) float, at least 1.
        """
        if lower_counts is None:
            return predicted.clamp(min=1)
        lower = torch.as_tensor(lower_counts).to(predicted)
        is_exact = (lower > 0) & (lower <= self.network.max_count)
        return torch.where(is_exact, lower, predicted.maximum(lower).clamp(min=1))
