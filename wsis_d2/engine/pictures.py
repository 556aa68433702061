"""Pictures of what a network says of a training image, for TensorBoard (``VIS_PERIOD``)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.structures import BitMasks
from torch import Tensor, nn

from ..modeling import HFMask2Former, IRNet, RetinaMask
from ..modeling.classifier import ImageClassifier
from ..visualization import (
    draw_boundary,
    draw_displacement,
    draw_heatmap,
    draw_instances,
    draw_label_map,
)

__all__ = ["TrainingPictures", "draw_training_image"]


class TrainingPictures(HookBase):
    """Puts a picture into the event storage in the iterations that ``VIS_PERIOD`` divides.

    It shows the first image of the batch as it was augmented, and what the network, in evaluation
    mode, says of it. Training does not notice: no random number is drawn, no statistic updated. As
    only the main process writes events, it alone has this hook.
    """

    def __init__(self, model: nn.Module, period: int, image_format: str):
        """
        Args:
            model: the one that is trained, out of its DDP wrapper.
            period: in iterations, at least 1.
            image_format: ``INPUT.FORMAT``.
        """
        self.model = model
        self.period = period
        self.image_format = image_format

    def before_train(self) -> None:
        self._hook = self.model.register_forward_pre_hook(self._remember)

    def _remember(self, _: nn.Module, args: tuple[list[dict]]) -> None:
        self._input = args[0][0]

    def after_step(self) -> None:
        if self.trainer.iter % self.period:
            return
        image = convert_image_to_rgb(self._input["image"].permute(1, 2, 0), self.image_format)
        with inference_context(self.model), torch.no_grad():
            pictures = draw_training_image(self.model, self._input, image.astype(np.uint8))
        for name, picture in pictures.items():
            self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))

    def after_train(self) -> None:
        self._hook.remove()


@functools.singledispatch
def draw_training_image(
    model: nn.Module, x: dict[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    """Draw what a network says of one image that it is trained on.

    Networks that are not known here have no pictures; ``draw_training_image.register`` takes a
    function for those of your own.

    Args:
        model: in evaluation mode.
        x: as the network gets it in training.
        image: (H, W, 3) uint8 RGB, that of ``x``.

    Returns:
        Name of a picture -> (H, n * W, 3) uint8 RGB, n panels side by side; {} for none.
    """
    return {}


@draw_training_image.register
def _draw_cams(
    model: ImageClassifier, x: dict[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    maps = model.class_response_maps(model.preprocess([x]).tensor)[0].relu()
    height, width = (-(-side // model.stride) for side in image.shape[:2])  # without padding
    cams = _to_numpy(maps[x["image_labels"].to(maps.device), :height, :width])
    return {"Image, CAM of each label": np.hstack([image, *(draw_heatmap(image, m) for m in cams)])}


@draw_training_image.register
def _draw_relations(model: IRNet, x: dict[str, Any], image: np.ndarray) -> dict[str, np.ndarray]:
    (relations,) = model([x])
    boundary = draw_boundary(image, _to_numpy(relations["boundary"]))
    displacement = draw_displacement(image, _to_numpy(relations["displacement"]))
    return {"Image, class boundary, displacement": np.hstack([image, boundary, displacement])}


@draw_training_image.register(GeneralizedRCNN)
@draw_training_image.register(HFMask2Former)
@draw_training_image.register(RetinaMask)
def _draw_masks(model: nn.Module, x: dict[str, Any], image: np.ndarray) -> dict[str, np.ndarray]:
    """As many of the best predictions as there are true ones; colors are those of the classes."""
    if not x["instances"].has("gt_masks"):
        return {}
    (output,) = model([{"image": x["image"]}])
    predicted, given = output["instances"], x["instances"]
    if not predicted.has("pred_masks"):
        return {}
    best = predicted[predicted.scores.argsort(descending=True)[: len(given)]]
    masks = given.gt_masks
    if not isinstance(masks, BitMasks):
        masks = BitMasks.from_polygon_masks(masks, *image.shape[:2])
    panels = [
        draw_instances(image, _to_numpy(some_masks), classes, color_ids=classes)
        for some_masks, classes in (
            (masks.tensor, given.gt_classes.tolist()),
            (best.pred_masks, best.pred_classes.tolist()),
        )
    ]
    return {"Left: given masks; right: best predictions": np.hstack(panels)}


@draw_training_image.register
def _draw_label_maps(
    model: SemanticSegmentor, x: dict[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    (output,) = model([{"image": x["image"]}])
    maps = (x["sem_seg"], output["sem_seg"].argmax(0))
    panels = [draw_label_map(image, _to_numpy(labels)) for labels in maps]
    return {"Left: given label map; right: prediction": np.hstack(panels)}


def _to_numpy(maps: Tensor) -> np.ndarray:
    """On the CPU, 0 where not finite: it is for the next loss to say that training diverged."""
    maps = maps.float().nan_to_num(0, 0, 0) if maps.is_floating_point() else maps
    return maps.cpu().numpy()
