"""Where are the instances? At the peaks of the class response maps (PRM, WISE)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from torch import Tensor

from ...errors import UserError
from ...layers import peak_response_maps
from .base import LOCALIZER_REGISTRY, Localizer, LocationCues, strongest_points, to_pixels


@LOCALIZER_REGISTRY.register()
class PRMPeaks(Localizer):
    """Peaks of the labelled classes and their response maps (Zhou et al., CVPR 2018, section 3).

    Responses are logits, class scores the probability of the peak's class in the image. The peak
    response maps are of the network's input size.

    Args:
        network: a :class:`wsis_d2.modeling.PRMClassifier`.
        class_threshold: least class score (a logit) for peaks of that class to count.
        peak_threshold: a peak's response (a logit) is above this.
        relative_threshold: least response of a peak relative to the strongest of its class; where
            that is negative it is the only one.
        max_peaks: at most this many peaks, strongest first.
        location: "response", the maximum of the peak response map, or "cell", the peak's place in
            the class response map.
        peaks_per_batch: peaks per backward pass.
    """

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        class_threshold: float = 0.0,
        peak_threshold: float = 30.0,
        relative_threshold: float = 0.0,
        max_peaks: int = 100,
        location: str = "response",
        peaks_per_batch: int = 16,
    ):
        super().__init__()
        if location not in ("response", "cell"):
            raise UserError(
                f"PSEUDO_LABELS.PEAK_LOCATION is {location!r}: choose 'response' or 'cell'"
            )
        if not hasattr(network, "stimulate"):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is '{type(network).__name__}', which has no peaks: use "
                "the config of a PRMClassifier, or another PSEUDO_LABELS.LOCALIZER"
            )
        self.network = network
        self.class_threshold = class_threshold
        self.peak_threshold = peak_threshold
        self.relative_threshold = relative_threshold
        self.max_peaks = max_peaks
        self.location = location
        self.peaks_per_batch = peaks_per_batch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL`` and ``PSEUDO_LABELS``."""
        labels = cfg.PSEUDO_LABELS
        return {
            "network": build_model(cfg),
            "class_threshold": labels.CLASS_THRESHOLD,
            "peak_threshold": labels.PEAK_THRESHOLD,
            "relative_threshold": labels.PEAK_RELATIVE_THRESHOLD,
            "max_peaks": labels.MAX_PEAKS,
            "location": labels.PEAK_LOCATION,
            "peaks_per_batch": cfg.MODEL.PRM.PEAKS_PER_BATCH,
        }

    @torch.no_grad()
    def forward(self, x: dict) -> LocationCues:
        """See :meth:`Localizer.forward`."""
        image = self.network.preprocess([x]).tensor
        return self._locate(x, image, self.network.class_response_maps(image))

    def _locate(
        self,
        x: dict,
        image: Tensor,
        maps: Tensor,
        max_per_label: Tensor | None = None,
    ) -> LocationCues:
        """The peaks of an image.

        Args:
            x: the model input dict.
            image: (1, 3, h, w), the network's input.
            maps: (1, num_classes, h', w'), class response maps of the image.
            max_per_label: (K,) int64, at most this many peaks of each of ``image_labels``, the
                strongest; None: no such limit.
        """
        network = self.network
        class_scores, peaks, responses = network.stimulate(maps)
        class_ids = peaks[:, 1]
        labels = torch.as_tensor(x["image_labels"]).to(maps.device)
        keep = self._select(class_ids, responses, class_scores[0], labels)
        if max_per_label is not None:
            limits = labels.new_zeros(len(class_scores[0])).index_add(0, labels, max_per_label)
            keep = keep[_rank_in_class(class_ids[keep]) < limits[class_ids[keep]]]
        class_ids, responses, peaks = class_ids[keep], responses[keep], peaks[keep]
        response_maps = peak_response_maps(
            network.class_response_maps, image, peaks, network.upsample, self.peaks_per_batch
        )
        map_size = [side * network.upsample for side in maps.shape[-2:]]
        return LocationCues(
            class_ids=class_ids,
            responses=responses,
            class_scores=class_scores[0, class_ids].sigmoid(),
            points=self._points(peaks, map_size, response_maps, (x["height"], x["width"])),
            response_maps=response_maps,
            class_response_maps=maps[0],
        )

    def _select(self, class_ids, responses, class_scores, image_labels) -> Tensor:
        """Indices of the peaks that count, strongest first."""
        keep = torch.isin(class_ids, image_labels)
        keep &= class_scores[class_ids] >= self.class_threshold
        keep &= responses > self.peak_threshold
        if self.relative_threshold > 0:
            strongest = responses.new_full((len(class_scores),), float("-inf"))
            strongest.scatter_reduce_(0, class_ids, responses, "amax")
            least = torch.where(strongest > 0, self.relative_threshold * strongest, strongest)
            keep &= responses >= least[class_ids]
        (index,) = keep.nonzero(as_tuple=True)
        order = torch.sort(responses[index], descending=True, stable=True).indices
        return index[order[: self.max_peaks]]

    def _points(self, peaks, map_size, response_maps, image_size) -> Tensor:
        """(P, 2) peaks in pixels of the original image."""
        if self.location == "cell":
            return to_pixels(peaks[:, 2:], map_size, image_size)
        return to_pixels(strongest_points(response_maps), response_maps.shape[-2:], image_size)


def _rank_in_class(class_ids: Tensor) -> Tensor:
    """(P,) int64: how many of the same class come before each."""
    return (class_ids[:, None] == class_ids[None]).tril(-1).sum(1)
