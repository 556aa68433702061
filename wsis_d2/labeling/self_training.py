"""A round of self-training: a trained instance model's predictions become the pseudo labels."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as mask_utils

from ..errors import UserError
from ..proposals import ProposalSource, build_proposal_source
from ..proposals.structures import checked_rle
from .build import LABEL_GENERATOR_REGISTRY
from .refine import refine_instances


class LabelFile:
    """Pseudo labels of an earlier round.

    Args:
        path: COCO-format JSON, as :class:`wsis_d2.evaluation.PseudoLabelWriter` writes it.

    Raises:
        UserError: It is missing or no such file.
    """

    def __init__(self, path: str):
        self.path = path
        self._of_image = defaultdict(list)
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            ids = sorted(category["id"] for category in content["categories"])
            class_of = {category_id: index for index, category_id in enumerate(ids)}
            for annotation in content["annotations"]:
                if not annotation.get("iscrowd", 0):
                    mask = checked_rle(annotation["segmentation"])
                    label = (class_of[annotation["category_id"]], mask, annotation["score"])
                    self._of_image[annotation["image_id"]].append(label)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"'{path}' cannot be read as pseudo labels ({error!r}): correct "
                "PSEUDO_LABELS.SELF_TRAINING.OLD_LABELS, or leave it empty"
            ) from error

    def get(self, x: dict) -> Instances:
        """The labels of an input dict's image: ``pred_masks`` (N, H, W) bool at the original size,
        ``pred_boxes``, ``scores`` and ``pred_classes``."""
        size = (x["height"], x["width"])
        labels = self._of_image.get(x["image_id"], [])
        if any(tuple(mask["size"]) != size for _, mask, _ in labels):
            raise UserError(
                f"a mask of image {x['image_id']} in '{self.path}' has another size than the "
                f"image's {size}: PSEUDO_LABELS.SELF_TRAINING.OLD_LABELS is of another dataset"
            )
        masks = [mask_utils.decode(mask).astype(bool) for _, mask, _ in labels]
        masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), bool))
        return Instances(
            size,
            pred_masks=masks,
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
            scores=torch.tensor([score for _, _, score in labels], dtype=torch.float32),
            pred_classes=torch.tensor([c for c, _, _ in labels], dtype=torch.int64),
        )


@LABEL_GENERATOR_REGISTRY.register()
class SelfTraining(torch.nn.Module):
    """Predictions of any Detectron2 instance model on the training images, filtered.

    A prediction stays where its class is in the image label, its score is high enough, and no
    better one of its class has a similar mask; with proposals its mask snaps to one first. Classes
    of the image label that are left without any keep their old pseudo labels, where these are
    given.

    Input: the standard list of dicts with ``image`` at its original size, ``image_labels``,
    ``file_name``, ``image_id``, ``height``, ``width``. Output: per image ``{"instances":
    Instances}`` with ``pred_masks`` (N, H, W) bool, ``pred_boxes``, ``scores`` and
    ``pred_classes``, best score first, old labels last.

    Args:
        network: The trained model, of any meta-architecture that gives such ``instances``.
        resize: Resizing of the model's input at test time.
        min_score: Predictions below it are dropped.
        nms_threshold: Predictions are dropped where the mask IoU with a better one of their class
            is above it.
        proposals: To refine the predictions with, see
            :class:`wsis_d2.labeling.ProposalRefinement`; or None.
        old_labels: The pseudo labels that the model was trained on, or None.
    """

    gives_label_maps = False

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        resize: T.ResizeShortestEdge,
        min_score: float,
        nms_threshold: float,
        proposals: ProposalSource | None,
        old_labels: LabelFile | None,
    ):
        super().__init__()
        self.network = network
        self.resize = resize
        self.min_score = min_score
        self.nms_threshold = nms_threshold
        self.proposals = proposals
        self.old_labels = old_labels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``INPUT``, ``PROPOSALS`` and ``PSEUDO_LABELS.SELF_TRAINING``."""
        options, side = cfg.PSEUDO_LABELS.SELF_TRAINING, cfg.INPUT.MIN_SIZE_TEST
        return {
            "network": build_model(cfg),
            "resize": T.ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST),
            "min_score": options.MIN_SCORE,
            "nms_threshold": options.NMS_THRESHOLD,
            "proposals": build_proposal_source(cfg) if options.REFINE_WITH_PROPOSALS else None,
            "old_labels": LabelFile(options.OLD_LABELS) if options.OLD_LABELS else None,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Label each image; see the class."""
        return [{"instances": self._label(x)} for x in batched_inputs]

    def _label(self, x: dict) -> Instances:
        image = np.ascontiguousarray(x["image"].permute(1, 2, 0).numpy())
        image = self.resize.get_transform(image).apply_image(image)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        (output,) = self.network([{**x, "image": image}])
        output = output["instances"].to("cpu")
        fields = ("pred_masks", "pred_boxes", "scores", "pred_classes")
        predictions = Instances(output.image_size, **{name: output.get(name) for name in fields})
        of_label = torch.isin(predictions.pred_classes, x["image_labels"])
        predictions = predictions[of_label & (predictions.scores >= self.min_score)]
        predictions = predictions[predictions.scores.argsort(descending=True, stable=True)]
        if self.proposals is not None:
            predictions = refine_instances(predictions, self.proposals.get(x))
        predictions = predictions[without_duplicates(predictions, self.nms_threshold)]
        if self.old_labels is None:
            return predictions
        old = self.old_labels.get(x)
        missing = ~torch.isin(old.pred_classes, predictions.pred_classes)
        return Instances.cat([predictions, old[missing]])


def without_duplicates(instances: Instances, threshold: float) -> list[int]:
    """Greedy non-maximum suppression of masks, class by class; indices to keep.

    Args:
        instances: Best first, with ``pred_masks`` (N, H, W) bool and ``pred_classes``.
        threshold: Masks that overlap a better one of their class by more than this IoU go.
    """
    masks = instances.pred_masks.flatten(1).float()
    intersections = masks @ masks.T
    areas = masks.sum(1)
    ious = intersections / (areas[:, None] + areas - intersections).clamp(min=1)
    classes = instances.pred_classes
    duplicate = (ious > threshold) & (classes[:, None] == classes)
    kept: list[int] = []
    for i in range(len(instances)):
        if not duplicate[i, kept].any():
            kept.append(i)
    return kept
