"""Where are the instances? At the peaks of the class response maps (PRM, WISE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import configurable

from ..errors import UserError
from ..layers import peak_response_maps


@dataclass
class PeakCues:
    """The peaks of one image, strongest first, P of them.

    Attributes:
        class_ids: (P,) int64, contiguous class ids.
        responses: (P,) float, class response at the peak (a logit).
        class_scores: (P,) float in [0, 1], probability of the peak's class in the image.
        points: (P, 2) int64, (y, x) in pixels of the original image.
        response_maps: (P, h, w) float, peak response maps at the network's input size; each is
            non-negative and sums to 1.
        class_response_maps: (C, h', w') float, class response maps before upsampling (logits).
    """

    class_ids: torch.Tensor
    responses: torch.Tensor
    class_scores: torch.Tensor
    points: torch.Tensor
    response_maps: torch.Tensor
    class_response_maps: torch.Tensor

    def __len__(self) -> int:
        return len(self.class_ids)


class PeakLocalizer:
    """Peaks of the labelled classes and their response maps (Zhou et al., CVPR 2018, section 3).

    Args:
        class_threshold: Least class score (a logit) for peaks of that class to count.
        peak_threshold: A peak's response (a logit) is above this.
        relative_threshold: Least response of a peak relative to the strongest of its class.
        max_peaks: At most this many peaks, strongest first.
        location: "response", the maximum of the peak response map, or "cell", the peak's place in
            the class response map.
        peaks_per_batch: Peaks per backward pass.
    """

    @configurable
    def __init__(
        self,
        *,
        class_threshold: float = 0.0,
        peak_threshold: float = 30.0,
        relative_threshold: float = 0.0,
        max_peaks: int = 100,
        location: str = "response",
        peaks_per_batch: int = 16,
    ):
        if location not in ("response", "cell"):
            raise UserError(
                f"PSEUDO_LABELS.PEAK_LOCATION is {location!r}: choose 'response' or 'cell'"
            )
        self.class_threshold = class_threshold
        self.peak_threshold = peak_threshold
        self.relative_threshold = relative_threshold
        self.max_peaks = max_peaks
        self.location = location
        self.peaks_per_batch = peaks_per_batch

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Reads ``PSEUDO_LABELS``, and ``MODEL.PRM.PEAKS_PER_BATCH``."""
        labels = cfg.PSEUDO_LABELS
        return {
            "class_threshold": labels.CLASS_THRESHOLD,
            "peak_threshold": labels.PEAK_THRESHOLD,
            "relative_threshold": labels.PEAK_RELATIVE_THRESHOLD,
            "max_peaks": labels.MAX_PEAKS,
            "location": labels.PEAK_LOCATION,
            "peaks_per_batch": cfg.MODEL.PRM.PEAKS_PER_BATCH,
        }

    @torch.no_grad()
    def __call__(
        self,
        classifier: torch.nn.Module,
        image: torch.Tensor,
        image_labels: torch.Tensor,
        image_size: tuple[int, int],
    ) -> PeakCues:
        """Locate the instances of one image.

        Args:
            classifier: A :class:`PRMClassifier`, in eval mode.
            image: (1, 3, h, w) float, normalised, as ``classifier.preprocess`` gives it.
            image_labels: (K,) int64, the classes that the image shows.
            image_size: (height, width) of the original image, for :attr:`PeakCues.points`.
        """
        maps = classifier.class_response_maps(image)
        class_scores, peaks, responses = classifier.stimulate(maps)
        class_ids = peaks[:, 1]
        keep = self._select(class_ids, responses, class_scores[0], image_labels.to(maps.device))
        class_ids, responses, peaks = class_ids[keep], responses[keep], peaks[keep]
        response_maps = peak_response_maps(
            classifier.class_response_maps,
            image,
            peaks,
            classifier.upsample,
            self.peaks_per_batch,
        )
        map_size = [side * classifier.upsample for side in maps.shape[-2:]]
        return PeakCues(
            class_ids=class_ids,
            responses=responses,
            class_scores=class_scores[0, class_ids].sigmoid(),
            points=self._points(peaks, map_size, response_maps, image_size),
            response_maps=response_maps,
            class_response_maps=maps[0],
        )

    def _select(self, class_ids, responses, class_scores, image_labels) -> torch.Tensor:
        """Indices of the peaks that count, strongest first."""
        keep = torch.isin(class_ids, image_labels)
        keep &= class_scores[class_ids] >= self.class_threshold
        keep &= responses > self.peak_threshold
        if self.relative_threshold > 0:
            strongest = responses.new_full((len(class_scores),), float("-inf"))
            strongest.scatter_reduce_(0, class_ids, responses, "amax")
            keep &= responses >= self.relative_threshold * strongest[class_ids]
        (index,) = keep.nonzero(as_tuple=True)
        order = torch.sort(responses[index], descending=True, stable=True).indices
        return index[order[: self.max_peaks]]

    def _points(self, peaks, map_size, response_maps, image_size) -> torch.Tensor:
        """(P, 2) peaks in pixels of the original image."""
        if self.location == "response":
            height, width = response_maps.shape[-2:]
            flat = response_maps.flatten(1)
            index = flat.argmax(1) if len(flat) else flat.new_zeros(0, dtype=torch.int64)
            points = torch.stack([index // width, index % width], 1)
            size = torch.tensor([height, width], device=points.device)
        else:
            points, size = peaks[:, 2:], torch.tensor(map_size, device=peaks.device)
        # Pixel centres: the same relative place in a grid of another size.
        target = torch.tensor(image_size, device=points.device)
        return ((points + 0.5) * target / size).long().clamp(min=0).minimum(target - 1)
