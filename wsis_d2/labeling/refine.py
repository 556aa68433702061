"""WISE's refinement: predicted masks snap to mask proposals (Laradji et al., BMVC 2019)."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ..proposals import ProposalSource
from ..structures import MaskProposals, encode_masks, mask_iou, mask_nms
from .prompts import Prompter


class ProposalRefinement(torch.nn.Module):
    """Any Detectron2 instance model, whose masks are replaced by proposals.

    Each predicted mask becomes the proposal of highest Jaccard index with it, and its box the box
    of that proposal; classes and scores stay (section 3.3).

    Input: the standard list of dicts with what the model wants, and ``file_name``, ``image_id``,
    ``height``, ``width``, and for prompted proposals ``image``. Output: that of the model, its
    ``instances`` refined.

    Args:
        model: gives ``instances`` with ``pred_masks`` (N, H, W) bool and ``pred_boxes`` at the
            original size.
        proposals: the proposals.
        min_iou: a mask stays as it is where no proposal has a Jaccard index above this; at 0, where
            none overlaps it at all.
        prompter: what prompted proposals are asked of the predicted masks; None where they are not.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        proposals: ProposalSource,
        min_iou: float = 0.0,
        prompter: Prompter | None = None,
    ):
        super().__init__()
        self.model = model
        self.proposals = proposals
        self.min_iou = min_iou
        self.prompter = prompter
        self.train(model.training)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """See the class."""
        return [
            {
                **output,
                "instances": refine_instances(
                    output["instances"],
                    propose_for_masks(self.proposals, self.prompter, x, output["instances"]),
                    self.min_iou,
                ),
            }
            for x, output in zip(batched_inputs, self.model(batched_inputs))
        ]


class LabelRefinement:
    """Pseudo masks of any generator become the proposals most like them, and those that become
    alike one label: that of the best score.

    Args:
        proposals: the proposals.
        prompter: what prompted proposals are asked of the masks; None where they are not.
        nms_threshold: refined masks that overlap a better one by more than this IoU are dropped.
        class_agnostic_nms: those of other classes too.
    """

    def __init__(
        self,
        proposals: ProposalSource,
        *,
        prompter: Prompter | None = None,
        nms_threshold: float = 0.3,
        class_agnostic_nms: bool = False,
    ) -> None:
        self.proposals = proposals
        self.prompter = prompter
        self.nms_threshold = nms_threshold
        self.class_agnostic_nms = class_agnostic_nms

    def __call__(self, x: dict, instances: Instances) -> Instances:
        """Refine the labels of an image.

        Args:
            x: a model input dict, see :class:`ProposalRefinement`.
            instances: N labels with ``pred_masks`` (N, H, W) bool at the original size,
                ``pred_boxes``, ``scores`` and ``pred_classes``.

        Returns:
            At most N, best score first.
        """
        proposals = propose_for_masks(self.proposals, self.prompter, x, instances)
        refined = refine_instances(instances, proposals)
        kept = mask_nms(
            encode_masks(refined.pred_masks.cpu().numpy()),
            refined.scores.cpu().numpy(),
            self.nms_threshold,
            classes=None if self.class_agnostic_nms else refined.pred_classes.tolist(),
        )
        return refined[torch.from_numpy(kept)]


def propose_for_masks(
    proposals: ProposalSource, prompter: Prompter | None, x: dict, instances: Instances
) -> MaskProposals:
    """The proposals of an image to refine masks with.

    Args:
        proposals: the proposals.
        prompter: see :class:`ProposalRefinement`.
        x: a model input dict, see there.
        instances: with ``pred_masks`` (N, H, W) bool at the original size.
    """
    if prompter is None:
        return proposals.get(x)
    return proposals.get(x, prompter.of_instances(instances))


def refine_instances(
    instances: Instances, proposals: MaskProposals, min_iou: float = 0.0
) -> Instances:
    """A copy of the instances with the masks and boxes of their best proposals.

    Args:
        instances: with ``pred_masks`` (N, H, W) bool and ``pred_boxes``.
        proposals: of an image of this size (H, W).
        min_iou: see :class:`ProposalRefinement`.
    """
    refined = Instances(instances.image_size, **instances.get_fields())
    if not len(instances) or not len(proposals):
        return refined
    masks = instances.pred_masks.cpu().numpy()
    overlaps = mask_iou(encode_masks(masks), proposals.masks)
    best = overlaps.argmax(1)
    replaced = overlaps[np.arange(len(best)), best] > min_iou
    masks = np.where(replaced[:, None, None], proposals.decode(best), masks)
    refined.pred_masks = torch.from_numpy(masks).to(instances.pred_masks.device)
    boxes = instances.pred_boxes.tensor.clone()
    replaced = torch.from_numpy(replaced)
    of_proposals = BitMasks(torch.from_numpy(masks)[replaced]).get_bounding_boxes().tensor
    boxes[replaced.to(boxes.device)] = of_proposals.to(boxes)
    refined.pred_boxes = Boxes(boxes)
    return refined
