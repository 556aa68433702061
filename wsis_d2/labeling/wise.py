"""From located objects and class-agnostic proposals to masks: WISE with exchangeable parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ..data import StrongerLabel
from ..proposals import ProposalSource, build_proposal_source
from ..structures import MaskProposals, mask_nms
from .cam_folder import CAMFolder
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator
from .localizers import Localizer, LocationCues, build_localizer, located_boxes
from .localizers.base import move_to_points
from .prompts import Prompter, build_prompter
from .selectors import PRMScore, Selector, build_selector
from .stronger_labels import box_fit, point_pixel


@LABEL_GENERATOR_REGISTRY.register()
class WISE(LabelGenerator):
    """A localiser finds objects and a selector gives each a mask proposal (Laradji et al., BMVC
    2019, section 3).

    The paper's own parts are ``PRMPeaks`` with ``BestObjectness`` or ``SampledObjectness``.

    The instances are sorted by their scores in [0, 1], best first. With ``max_candidates`` they
    also have ``candidates``, each a list of ``{"segmentation": RLE, "weight": float}``, best first,
    whose weights sum to 1.

    Points among an image's stronger labels are objects in place of those that the localiser finds
    of their classes, unless it gives boxes; each box adds the proposal that fits it best.

    Args:
        localizer: where the objects are.
        selector: which proposal each takes.
        proposals: the proposals.
        nms_threshold: masks that overlap a better one by more than this IoU are dropped.
        class_agnostic_nms: those of other classes too.
        min_score: objects whose proposal scores less are dropped.
        max_candidates: proposals per object in ``candidates``; 0: no such field.
        prompter: what prompted proposals are asked of the objects; None where they are not.
    """

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
        prompter: Prompter | None = None,
    ):
        super().__init__()
        self.localizer = localizer
        self.selector = selector
        self.proposals = proposals
        self.nms_threshold = nms_threshold
        self.class_agnostic_nms = class_agnostic_nms
        self.min_score = min_score
        self.max_candidates = max_candidates
        self.prompter = prompter

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``PROPOSALS`` and ``PSEUDO_LABELS``, and what the parts read."""
        labels, proposals = cfg.PSEUDO_LABELS, build_proposal_source(cfg)
        return {
            "localizer": build_localizer(cfg),
            "selector": build_selector(cfg),
            "proposals": proposals,
            "prompter": build_prompter(cfg, proposals),
            "nms_threshold": labels.NMS_THRESHOLD,
            "class_agnostic_nms": labels.CLASS_AGNOSTIC_NMS,
            "min_score": labels.MIN_SCORE,
            "max_candidates": labels.MAX_CANDIDATES,
        }

    @property
    def network(self) -> torch.nn.Module | None:
        """That of the localiser, see :class:`Localizer`."""
        return self.localizer.network

    @property
    def gives_boxes(self) -> bool:
        """Whether the localiser does."""
        return self.localizer.gives_boxes

    @property
    def cams(self) -> CAMFolder | None:
        """The stored CAMs that the localiser reads, if it does."""
        return self.localizer.cams

    def optimize(self) -> None:
        """See :meth:`LabelGenerator.optimize`."""
        self.localizer.optimize()

    def label(self, x: dict) -> dict:
        """See :meth:`LabelGenerator.label`; the cues are :class:`LocationCues`."""
        size = (x["height"], x["width"])
        given = x.get("stronger_labels", ())
        cues = _at_given_points(self.localizer(x), given, size)
        proposals = self._propose(x, cues)
        chosen, scores = self.selector(cues, proposals, x)
        classes = cues.class_ids.cpu().numpy()
        # Some objects have no proposal.
        index = np.flatnonzero((chosen >= 0) & (scores >= self.min_score))
        kept = mask_nms(
            [proposals.masks[i] for i in chosen[index]],
            scores[index],
            self.nms_threshold,
            classes=None if self.class_agnostic_nms else classes[index],
        )
        index = index[kept]
        fitting, fits, class_ids = _fitting_boxes(proposals, given)
        chosen = np.concatenate([chosen[index], fitting])
        scores = np.concatenate([scores[index], fits])
        instances = Instances(size)
        masks = torch.from_numpy(proposals.decode(chosen).reshape(len(chosen), *size))
        instances.pred_masks = masks
        instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
        instances.scores = torch.from_numpy(scores.astype(np.float32))
        instances.pred_classes = torch.from_numpy(np.concatenate([classes[index], class_ids]))
        if self.max_candidates:
            instances.candidates = [
                *self._candidates(cues, proposals, index),
                *([{"segmentation": proposals.masks[i], "weight": 1.0}] for i in fitting),
            ]
        output = {"instances": instances, "cues": cues}
        if self.gives_boxes:
            output["located_boxes"] = located_boxes(cues, size)
        return output

    def evidence(self, x: dict, output: dict) -> tuple[Tensor, Tensor]:
        """See :meth:`LabelGenerator.evidence`: the class response maps."""
        maps, class_ids = output["cues"].class_response_maps, x["image_labels"]
        return maps[class_ids.to(maps.device)], class_ids

    def _propose(self, x: dict, cues: LocationCues) -> MaskProposals:
        if self.prompter is None:
            return self.proposals.get(x)
        return self.proposals.get(x, self.prompter.of_cues(cues, (x["height"], x["width"])))

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


def _at_given_points(
    cues: LocationCues, given: Sequence[StrongerLabel], size: tuple[int, int]
) -> LocationCues:
    points = [label for label in given if label.point is not None]
    if not points or cues.boxes is not None:
        return cues
    class_ids = torch.tensor([label.class_id for label in points])
    pixels = torch.tensor([point_pixel(label.point, size) for label in points])
    return move_to_points(cues, class_ids, pixels, size)


def _fitting_boxes(
    proposals: MaskProposals, given: Sequence[StrongerLabel]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each box its best proposal, how well it fits, and the class."""
    boxes = [label for label in given if label.box is not None] if len(proposals) else []
    fits = np.array([box_fit(proposals.masks, label.box) for label in boxes])
    fits = fits.reshape(len(boxes), len(proposals))
    best = fits.argmax(1) if boxes else np.zeros(0, dtype=np.int64)
    class_ids = np.array([label.class_id for label in boxes], dtype=np.int64)
    return best, fits[np.arange(len(boxes)), best], class_ids


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
