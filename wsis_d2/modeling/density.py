"""A classifier that also counts: class response maps and density maps from lower counts."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..errors import UserError
from ..layers import count_losses, highest_peaks, spatial_losses
from .classifier import PRMClassifier
from .norm import find_norm

__all__ = ["DensityPRM"]


@META_ARCH_REGISTRY.register()
class DensityPRM(PRMClassifier):
    """Two branches on one backbone: class response maps with peaks, and density maps.

    Source: Cholakkal et al., "Object Counting and Instance Segmentation with Image-level
    Supervision", CVPR 2019, section 3, trained from lower counts: how many objects of each class an
    image shows, up to the end of the subitizing range, or that there are more. The highest peaks of
    the category branch are the pseudo ground truth of where the density must be, its sums answer to
    the counts. As published, a first stage of the training leaves the former out, until the peaks
    can be trusted.

    A branch is two 1x1 convolutions, with ReLU between. ``class_response_maps`` and ``stimulate``
    are those of :class:`PRMClassifier`, so peak backpropagation works alike.
    """

    @configurable
    def __init__(
        self,
        *,
        width_factor: float = 1.5,
        norm: str = "BN",
        cells: float = 196.0,
        max_count: int = 4,
        loss_weight: float = 1.0,
        rank_weight: float = 0.1,
        stage1_iters: int = 0,
        absent_fraction: float = 1.0,
        rare_frequency: float = 0.3,
        **kwargs,
    ):
        """
        Args:
            width_factor: hidden channels of a branch, as a factor on the number of classes.
            norm: normalisation of the hidden channels, see :func:`wsis_d2.modeling.find_norm`.
            cells: a response of this size in the density branch is one object. Published: the
                number of cells, so that the count is the mean of the responses.
            max_count: end of the subitizing range.
            loss_weight: weight of all losses of the density branch beside the classification's.
            rank_weight: weight of the loss beyond the subitizing range.
            stage1_iters: iterations of the first stage, without spatial losses.
            absent_fraction: of the rare classes that are absent from an image, the fraction drawn
                at random for the losses; common ones all count.
            rare_frequency: a class is rare where less than this fraction of the batch shows it.
            kwargs: see :class:`PRMClassifier`.
        """
        super().__init__(**kwargs)
        in_channels = self.classifier.in_channels
        width = round(width_factor * self.num_classes)
        self.classifier = _branch(in_channels, width, self.num_classes, norm)
        self.density_head = _branch(in_channels, width, self.num_classes, norm)
        self.cells = cells
        self.max_count = max_count
        self.loss_weight = loss_weight
        self.rank_weight = rank_weight
        self.stage1_iters = stage1_iters
        self.absent_fraction = absent_fraction
        self.rare_frequency = rare_frequency
        # In the checkpoint, so that a resumed training goes on in its stage.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        density = cfg.MODEL.DENSITY
        return {
            **super().from_config(cfg),
            "width_factor": density.WIDTH_FACTOR,
            "norm": density.NORM,
            "cells": density.CELLS,
            "max_count": cfg.DATASETS.MAX_COUNT,
            "loss_weight": density.LOSS_WEIGHT,
            "rank_weight": density.RANK_WEIGHT,
            "stage1_iters": density.STAGE1_ITERS,
            "absent_fraction": density.ABSENT_FRACTION,
            "rare_frequency": density.RARE_FREQUENCY,
        }

    def density_maps(self, images: Tensor) -> Tensor:
        """Objects of each class per cell.

        Args:
            images: (N, C, H, W), normalised, as :meth:`preprocess` gives them.

        Returns:
            (N, num_classes, H / stride, W / stride), sizes rounded up. Their sums are the counts;
            a cell may be negative.
        """
        return self.response_and_density_maps(images)[1]

    def response_and_density_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`class_response_maps` and :meth:`density_maps`, from one run of the backbone."""
        features = self.backbone(images)[self.in_feature]
        return self.classifier(features), self.density_head(features) / self.cells

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255; in training all of
                  one size, and not cropped, which would cut off what was counted.
                * image_labels: (K,) int64 class ids, in training only.
                * image_counts: (K,) int64 lower counts of these classes, in training only.

        Returns:
            In training ``loss_cls`` (multi-label soft margin), ``loss_mse`` and ``loss_rank`` (of
            the counts), ``loss_sp_pos`` and ``loss_sp_neg`` (spatial; 0 in the first stage), see
            :mod:`wsis_d2.layers.density_losses`. Else a list of ``{"image_scores": (num_classes,)
            probabilities, "image_counts": (num_classes,) float}``; counts are at least 0, and 0
            where the probability is at most 1/2.

        Raises:
            UserError: a training image has no labels or counts, or another size.
        """
        if self.training:
            return self._losses(batched_inputs)
        same_size = len({x["image"].shape for x in batched_inputs}) == 1
        batches = [batched_inputs] if same_size else [[x] for x in batched_inputs]
        return [output for batch in batches for output in self._count(batch)]

    def _branches(self, batched_inputs: list[dict]) -> tuple[Tensor, Tensor]:
        """Class response maps and responses of the density branch, without padding."""
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)[self.in_feature]
        height, width = (-(-side // self.stride) for side in images.image_sizes[0])
        maps, responses = self.classifier(features), self.density_head(features)
        return maps[..., :height, :width].float(), responses[..., :height, :width].float()

    def _count(self, batched_inputs: list[dict]) -> list[dict]:
        maps, responses = self._branches(batched_inputs)
        scores = self.aggregate(maps).sigmoid()
        counts = responses.sum((2, 3)).clamp(min=0) / self.cells * (scores > 0.5)
        return [{"image_scores": s, "image_counts": c} for s, c in zip(scores, counts)]

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        counts = self._lower_counts(batched_inputs)
        maps, responses = self._branches(batched_inputs)
        present = counts > 0
        second_stage = self.num_steps >= self.stage1_iters
        self.num_steps += 1
        absent = self._draw_absent(present) & second_stage
        subitized = counts * (counts <= self.max_count) * second_stage
        peaks = highest_peaks(maps, subitized, self.window, self.peak_threshold)
        predicted = responses.sum((2, 3)) / self.cells
        mse, rank = count_losses(predicted, counts, self.max_count, absent)
        spatial_pos, spatial_neg = spatial_losses(responses, peaks, absent)
        return {
            "loss_cls": F.multilabel_soft_margin_loss(self.aggregate(maps), present.float()),
            "loss_mse": self.loss_weight * mse,
            "loss_rank": self.loss_weight * self.rank_weight * rank,
            "loss_sp_pos": self.loss_weight * spatial_pos,
            "loss_sp_neg": self.loss_weight * spatial_neg,
        }

    def _draw_absent(self, present: Tensor) -> Tensor:
        """(N, num_classes) bool: the absent classes that enter the losses."""
        if self.absent_fraction >= 1:
            return ~present
        rare = present.float().mean(0) < self.rare_frequency
        drawn = torch.rand(present.shape, device=present.device) < self.absent_fraction
        return ~present & (~rare | drawn)

    def _lower_counts(self, batched_inputs: list[dict]) -> Tensor:
        """(N, num_classes) float: the lower count of each class, 0 where it is absent."""
        if len({x["image"].shape for x in batched_inputs}) > 1:
            raise UserError(
                "DensityPRM is trained on whole images of one size: set "
                "INPUT.IMAGE_LEVEL.RESIZE_TRAIN to 'square' and CROP_SIZE to 0"
            )
        counts = self._targets(batched_inputs)  # checks the labels
        for row, x in zip(counts, batched_inputs):
            known = torch.as_tensor(x.get("image_counts", ()), dtype=counts.dtype)
            if len(known) != len(x["image_labels"]) or not known.all():
                raise UserError(
                    f"{x.get('file_name', 'an image')} came to training without the counts of its "
                    "labels: set DATASETS.SUPERVISION to 'image_counts' and train on a dataset "
                    "that has them"
                )
            row[torch.as_tensor(x["image_labels"])] = known
        return counts.to(self.device)


def _branch(in_channels: int, width: int, out_channels: int, norm: str) -> nn.Sequential:
    hidden = Conv2d(in_channels, width, 1, norm=get_norm(find_norm(norm), width), activation=F.relu)
    return nn.Sequential(hidden, Conv2d(width, out_channels, 1))
