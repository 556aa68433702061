"""From located objects and class-agnostic proposals to masks: WISE with exchangeable parts."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as mask_utils

from ..proposals import MaskProposals, ProposalSource, build_proposal_source
from .build import LABEL_GENERATOR_REGISTRY, build_localizer, build_selector
from .cam_folder import CAMFolder
from .locations import Localizer, LocationCues
from .selectors import PRMScore, Selector


@LABEL_GENERATOR_REGISTRY.register()
class WISE(torch.nn.Module):
    """A localiser finds objects and a selector gives each a mask proposal (Laradji et al., BMVC
    2019, section 3).

    The paper's own parts are ``PRMPeaks`` with ``BestObjectness`` or ``SampledObjectness``.

    Input: the standard list of dicts with ``image``, ``image_labels``, ``file_name``, ``image_id``,
    ``height``, ``width``. Output: per image ``{"instances": Instances, "cues": LocationCues}``; the
    instances have ``pred_masks`` (N, H, W) bool, ``pred_boxes``, ``scores`` in [0, 1] and
    ``pred_classes`` at the original size, best score first; with ``max_candidates`` also
    ``candidates``, for each instance a list of ``{"segmentation": RLE, "weight": float}``, best
    first, whose weights sum to 1.

    Args:
        localizer: Where the objects are.
        selector: Which proposal each takes.
        proposals: The proposals.
        nms_threshold: Masks that overlap a better one by more than this IoU are dropped.
        class_agnostic_nms: Those of other classes too.
        min_score: Objects whose proposal scores less are dropped.
        max_candidates: Proposals per object in ``candidates``; 0: no such field.
    """

    gives_label_maps = False

    @configurable
    def __init__(
        self,
        *,
        localizer: Localizer,
        selector: Selector,
        proposals: ProposalSource,
        nms_threshold: float,
        class_agnostic_nms: bool,
        min_score: float,
        max_candidates: int,
    ):
        super().__init__()
        self.localizer = localizer
        self.selector = selector
        self.proposals = proposals
        self.nms_threshold = nms_threshold
        self.class_agnostic_nms = class_agnostic_nms
        self.min_score = min_score
        self.max_candidates = max_candidates

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``PROPOSALS`` and ``PSEUDO_LABELS``, and what the parts read."""
        labels = cfg.PSEUDO_LABELS
        return {
            "localizer": build_localizer(cfg),
            "selector": build_selector(cfg),
            "proposals": build_proposal_source(cfg),
            "nms_threshold": labels.NMS_THRESHOLD,
            "class_agnostic_nms": labels.CLASS_AGNOSTIC_NMS,
            "min_score": labels.MIN_SCORE,
            "max_candidates": labels.MAX_CANDIDATES,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The trained network whose checkpoint ``MODEL.WEIGHTS`` names."""
        return self.localizer.network

    @property
    def cams(self) -> CAMFolder | None:
        """The stored CAMs that the localiser reads, if it does."""
        return getattr(self.localizer, "cams", None)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Label each image; see the class."""
        return [self._label(x) for x in batched_inputs]

    def _label(self, x: dict) -> dict:
        size = (x["height"], x["width"])
        cues = self.localizer(x)
        proposals = self.proposals.get(x)
        chosen, scores = self.selector(cues, proposals, x)
        classes = cues.class_ids.cpu().numpy()
        # Some objects have no proposal.
        index = np.flatnonzero((chosen >= 0) & (scores >= self.min_score))
        index = index[np.argsort(-scores[index], kind="stable")]
        index = index[self._suppress(proposals, chosen[index], classes[index])]
        instances = Instances(size)
        masks = torch.from_numpy(proposals.decode(chosen[index]).reshape(len(index), *size))
        instances.pred_masks = masks
        instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
        instances.scores = torch.from_numpy(scores[index].astype(np.float32))
        instances.pred_classes = torch.from_numpy(classes[index])
        if self.max_candidates:
            instances.candidates = self._candidates(cues, proposals, index)
        return {"instances": instances, "cues": cues}

    def _suppress(
        self, proposals: MaskProposals, chosen: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        """Greedy non-maximum suppression of masks that are sorted by score; indices to keep."""
        masks = [proposals.masks[i] for i in chosen]
        if not masks:
            return np.zeros(0, dtype=np.int64)
        overlaps = mask_utils.iou(masks, masks, [False] * len(masks)) > self.nms_threshold
        overlaps |= chosen[:, None] == chosen[None, :]
        if not self.class_agnostic_nms:
            overlaps &= classes[:, None] == classes[None, :]
        kept: list[int] = []
        for i in range(len(masks)):
            if not overlaps[i, kept].any():
                kept.append(i)
        return np.asarray(kept, dtype=np.int64)

    def _candidates(
        self, cues: LocationCues, proposals: MaskProposals, index: np.ndarray
    ) -> list[list[dict]]:
        """The ``candidates`` of the objects of this index."""
        pairs = self.selector.candidates(cues, proposals, self.max_candidates)
        return [
            [
                {"segmentation": proposals.masks[i], "weight": float(weight)}
                for i, weight in zip(*pairs[p])
            ]
            for p in index
        ]


@LABEL_GENERATOR_REGISTRY.register()
class PRM(WISE):
    """PRM's instance mask retrieval (Zhou et al., CVPR 2018, section 3.3).

    Short for :class:`WISE` with the selector ``PRMScore`` and suppression over all classes, as
    published, whatever ``PSEUDO_LABELS.SELECTOR`` and ``CLASS_AGNOSTIC_NMS`` say.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """See :meth:`WISE.from_config`."""
        return {
            **super().from_config(cfg),
            "selector": PRMScore(cfg),
            "class_agnostic_nms": True,
        }
