"""A round of self-training: a trained instance model's predictions become the pseudo labels."""

from __future__ import annotations

from collections import defaultdict

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from ..errors import UserError
from ..files import load_json
from ..proposals import ProposalSource, build_proposal_source
from ..structures import decode_masks, encode_masks, mask_nms, to_rle
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator
from .image_size import resize_input
from .prompts import Prompter, build_prompter
from .refine import propose_for_masks, refine_instances


class LabelFile:
    """Pseudo labels of an earlier round.

    Args:
        path: COCO-format JSON, as :class:`wsis_d2.evaluation.PseudoLabelWriter` writes it.

    Raises:
        UserError: it is missing or no such file.
    """

    def __init__(self, path: str):
        self.path = path
        self._of_image = defaultdict(list)
        try:
            content = load_json(path)
            ids = sorted(category["id"] for category in content["categories"])
            class_of = {category_id: index for index, category_id in enumerate(ids)}
            for annotation in content["annotations"]:
                if not annotation.get("iscrowd", 0):
                    mask = to_rle(annotation["segmentation"])
                    label = (class_of[annotation["category_id"]], mask, float(annotation["score"]))
                    self._of_image[annotation["image_id"]].append(label)
        except (
            AttributeError,
            KeyError,
            OverflowError,
            TypeError,
            UserError,
            ValueError,
        ) as error:
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
        masks = torch.from_numpy(decode_masks([mask for _, mask, _ in labels], size))
        return Instances(
            size,
            pred_masks=masks,
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
            scores=torch.tensor([score for _, _, score in labels], dtype=torch.float32),
            pred_classes=torch.tensor([c for c, _, _ in labels], dtype=torch.int64),
        )


@LABEL_GENERATOR_REGISTRY.register()
class SelfTraining(LabelGenerator):
    """Predictions of any Detectron2 instance model on the training images, filtered.

    A prediction stays where its class is in the image label, its score is high enough, and no
    better one of its class has a similar mask; with proposals its mask snaps to one first. Classes
    of the image label that are left without any keep their old pseudo labels, where these are
    given.

    The instances come best score first, old labels last.

    Args:
        network: the trained model, of any meta-architecture that gives such ``instances``.
        resize: resizing of the model's input at test time.
        min_score: predictions below it are dropped.
        nms_threshold: predictions are dropped where the mask IoU with a better one of their class
            is above it.
        proposals: to refine the predictions with, see
            :class:`wsis_d2.labeling.ProposalRefinement`; or None.
        old_labels: the pseudo labels that the model was trained on, or None.
        prompter: what prompted proposals are asked of the predicted masks; None where they are not.
    """

    resizes_images = True

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
        prompter: Prompter | None = None,
    ):
        super().__init__()
        self.network = network
        self.resize = resize
        self.min_score = min_score
        self.nms_threshold = nms_threshold
        self.proposals = proposals
        self.old_labels = old_labels
        self.prompter = prompter

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``INPUT``, ``PROPOSALS`` and ``PSEUDO_LABELS.SELF_TRAINING``."""
        options, side = cfg.PSEUDO_LABELS.SELF_TRAINING, cfg.INPUT.MIN_SIZE_TEST
        proposals = build_proposal_source(cfg) if options.REFINE_WITH_PROPOSALS else None
        return {
            "network": build_model(cfg),
            "resize": T.ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST),
            "min_score": options.MIN_SCORE,
            "nms_threshold": options.NMS_THRESHOLD,
            "proposals": proposals,
            "prompter": build_prompter(cfg, proposals) if proposals is not None else None,
            "old_labels": LabelFile(options.OLD_LABELS) if options.OLD_LABELS else None,
        }

    def label(self, x: dict) -> dict:
        """See :meth:`LabelGenerator.label`."""
        return {"instances": self._label(x)}

    def _label(self, x: dict) -> Instances:
        (output,) = self.network([resize_input(x, self.resize)])
        output = output["instances"].to("cpu")
        fields = ("pred_masks", "pred_boxes", "scores", "pred_classes")
        predictions = Instances(output.image_size, **{name: output.get(name) for name in fields})
        of_label = torch.isin(predictions.pred_classes, x["image_labels"])
        predictions = predictions[of_label & (predictions.scores >= self.min_score)]
        if self.proposals is not None:
            proposals = propose_for_masks(self.proposals, self.prompter, x, predictions)
            predictions = refine_instances(predictions, proposals)
        kept = mask_nms(
            encode_masks(predictions.pred_masks.numpy()),
            predictions.scores.numpy(),
            self.nms_threshold,
            classes=predictions.pred_classes.tolist(),
        )
        predictions = predictions[torch.from_numpy(kept)]
        if self.old_labels is None:
            return predictions
        old = self.old_labels.get(x)
        missing = ~torch.isin(old.pred_classes, predictions.pred_classes)
        return Instances.cat([predictions, old[missing]])
