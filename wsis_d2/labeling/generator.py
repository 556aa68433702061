"""What a label generator is, by name and from a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from ..data import (
    StrongerLabel,
    label_dataset_name,
    read_stronger_labels,
    resize_stronger_label,
)
from ..errors import UserError, look_up
from ..proposals import build_proposal_source
from .cam_folder import CAMFolder
from .ignore_region import ignore_regions
from .image_size import reduce_input
from .large_images import to_full_size
from .prompts import build_prompter
from .refine import LabelRefinement
from .stronger_labels import with_stronger_labels

LABEL_GENERATOR_REGISTRY = Registry("LABEL_GENERATOR")
LABEL_GENERATOR_REGISTRY.__doc__ = """
Label generators by their name in ``PSEUDO_LABELS.GENERATOR``: subclasses of
:class:`wsis_d2.labeling.LabelGenerator` that are built from a config.
"""


class LabelGenerator(torch.nn.Module, ABC):
    """A Detectron2 inference model that knows the image labels.

    Input: the standard list of dicts with ``image`` (C, H, W) at its original size,
    ``image_labels`` (K,) int64, ``file_name``, ``image_id``, ``height`` and ``width``. Output: what
    :meth:`label` gives of each image and, with ``ignore_threshold``, its ``ignore_regions``.

    Attributes:
        network: the trained network, whose checkpoint ``MODEL.WEIGHTS`` names; None where there is
            nothing to train.
        gives_label_maps: whether each output has ``sem_seg_labels`` too.
        gives_boxes: whether each output has ``located_boxes`` too.
        cams: the stored CAMs that it reads, None where it reads none.
        ignore_threshold: above 0, pixels that respond to a labelled class above this fraction of
            its maximum, but that no mask claims, are regions to ignore; see
            :func:`wsis_d2.labeling.ignore_regions`.
        refinement: what masks become before they are given out, None: they stay as they are.
        max_pixels: larger images are labelled as if they had been reduced to so many pixels, and
            their masks and label maps are resized to the original size; 0: none are.
        resizes_images: whether the generator brings images to a size of its own, so that they are
            not reduced.
        stronger_labels: what is known of some images beside their labels, by ``image_id``; see
            :func:`wsis_d2.labeling.with_stronger_labels`. :meth:`label` has those of its image as
            ``x["stronger_labels"]``, on the size of ``x``; there is no such key where there are
            none.
    """

    network: torch.nn.Module | None
    gives_label_maps: bool = False
    gives_boxes: bool = False
    cams: CAMFolder | None = None
    ignore_threshold: float = 0.0
    refinement: LabelRefinement | None = None
    max_pixels: int = 0
    resizes_images: bool = False
    stronger_labels: Mapping[Hashable, Sequence[StrongerLabel]] = {}

    def optimize(self) -> None:
        """Make the network faster, once it has its weights; see
        :func:`wsis_d2.labeling.optimize_for_inference`. A generator to which that does not apply
        does nothing.
        """

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Label each image; see the class."""
        outputs = []
        for original in batched_inputs:
            x = original if self.resizes_images else reduce_input(original, self.max_pixels)
            is_reduced = x is not original
            given = self.stronger_labels.get(original.get("image_id"))
            if given:
                sizes = [(i["height"], i["width"]) for i in (original, x)]
                x = {**x, "stronger_labels": [resize_stronger_label(s, *sizes) for s in given]}
            output = self.label(x)
            if self.refinement is not None:
                output["instances"] = self.refinement(x, output["instances"])
            if self.ignore_threshold > 0:
                evidence = self.evidence(x, output)
                if evidence is not None:
                    output["ignore_regions"] = ignore_regions(
                        *evidence, output["instances"], self.ignore_threshold
                    )
            if is_reduced:
                output = to_full_size(output, x["full_size"])
            if given:
                output = with_stronger_labels(output, given)
            outputs.append(output)
        return outputs

    @abstractmethod
    def label(self, x: dict) -> dict:
        """Label one image.

        Args:
            x: see the class.

        Returns:
            ``{"instances": Instances}`` with ``pred_masks`` (N, H, W) bool, ``pred_boxes``,
            ``scores`` and ``pred_classes`` at the original size; where ``gives_label_maps`` also
            ``"sem_seg_labels"``, (H, W) uint8 with 0 for the background and c + 1 for class c;
            where ``gives_boxes`` also ``"located_boxes"``, what
            :func:`wsis_d2.labeling.localizers.located_boxes` gives; and as "cues" what the report
            shows of the way there.
        """

    def evidence(self, x: dict, output: dict) -> tuple[Tensor, Tensor] | None:
        """Where the labelled classes respond, for the regions to ignore.

        Args:
            x: the input of :meth:`label`.
            output: its output.

        Returns:
            (K, h, w) float maps at any size and (K,) int64 class ids; None: nothing is known.
        """
        return None


def build_label_generator(cfg: CfgNode) -> LabelGenerator:
    """The generator ``cfg.PSEUDO_LABELS.GENERATOR``, on ``cfg.MODEL.DEVICE``, without weights.

    Raises:
        UserError: no generator of that name, or the stronger labels cannot be read, see
            :func:`wsis_d2.data.read_stronger_labels`.
    """
    name = cfg.PSEUDO_LABELS.GENERATOR
    generator = look_up(LABEL_GENERATOR_REGISTRY, name, "PSEUDO_LABELS.GENERATOR")(cfg)
    if not isinstance(generator, LabelGenerator):
        raise UserError(
            f"PSEUDO_LABELS.GENERATOR '{name}' is no wsis_d2.labeling.LabelGenerator: let it "
            "inherit from that class"
        )
    generator.ignore_threshold = cfg.PSEUDO_LABELS.IGNORE_THRESHOLD
    generator.max_pixels = cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST
    if cfg.PSEUDO_LABELS.REFINE_WITH_PROPOSALS:
        generator.refinement = _build_refinement(cfg)
    if cfg.PSEUDO_LABELS.STRONGER_LABELS:
        generator.stronger_labels = read_stronger_labels(
            cfg.PSEUDO_LABELS.STRONGER_LABELS, label_dataset_name(cfg)
        )
    return generator.to(torch.device(cfg.MODEL.DEVICE)).eval()


def _build_refinement(cfg: CfgNode) -> LabelRefinement:
    labels, proposals = cfg.PSEUDO_LABELS, build_proposal_source(cfg)
    if labels.MAX_CANDIDATES:
        raise UserError(
            "PSEUDO_LABELS.REFINE_WITH_PROPOSALS is on and MAX_CANDIDATES is not 0, but candidates "
            "are not refined: set one of them back"
        )
    return LabelRefinement(
        proposals,
        prompter=build_prompter(cfg, proposals),
        nms_threshold=labels.NMS_THRESHOLD,
        class_agnostic_nms=labels.CLASS_AGNOSTIC_NMS,
    )
