"""Where are the objects? Where an open-vocabulary detector sees what the image's labels name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...data import dataset_classes, label_dataset_name
from ...errors import look_up
from ...images import require_rgb_format, to_rgb
from ..synonyms import class_texts
from ..text_detector import TEXT_DETECTOR_REGISTRY, TextDetector
from .base import LOCALIZER_REGISTRY, Localizer, LocationCues

# Longest side of the response maps, in cells: what SAM's mask prompts have room for is twice that.
_MAP_SIDE = 128


@LOCALIZER_REGISTRY.register()
class TextBoxes(Localizer):
    """Boxes of an open-vocabulary detector that is asked for the labels of each image alone.

    No network is trained for it. A class scores as its best text does, and each box is of the class
    that scores best in it. Responses and class scores are the detector's scores, points the centres
    of the boxes, response maps the boxes themselves.

    With ``other_classes`` the detector is also asked for all classes that the image is not labelled
    with, in a pass of its own if texts influence one another, so that the objects stay the same.
    What it finds there, no better box of any class overlapping it, are the cues' ``unlabelled``:
    labels that are missing, or mistakes of the detector.

    Args:
        detector: who is asked.
        texts: the texts of each class, see :func:`wsis_d2.labeling.synonyms.class_texts`.
        image_format: ``INPUT.FORMAT`` of the images: "BGR", "RGB" or "L".
        min_score: boxes of labelled classes below this are dropped.
        nms_threshold: boxes that overlap a better one of their class by more than this IoU are too.
        max_boxes: at most this many per image, best first.
        other_classes: whether to ask for the other classes too.
        other_min_score: their boxes below this are dropped.
    """

    gives_boxes = True
    network = None

    @configurable
    def __init__(
        self,
        *,
        detector: TextDetector,
        texts: Sequence[Sequence[str]],
        image_format: str = "BGR",
        min_score: float = 0.25,
        nms_threshold: float = 0.5,
        max_boxes: int = 100,
        other_classes: bool = False,
        other_min_score: float = 0.5,
    ):
        super().__init__()
        require_rgb_format(image_format, "PSEUDO_LABELS.LOCALIZER 'TextBoxes'")
        self.detector = detector
        self.texts = [list(of_class) for of_class in texts]
        self.image_format = image_format
        self.min_score = min_score
        self.nms_threshold = nms_threshold
        self.max_boxes = max_boxes
        self.other_classes = other_classes
        self.other_min_score = other_min_score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.TEXT_BOXES``, ``MAX_PEAKS`` and the classes of the dataset."""
        settings = cfg.PSEUDO_LABELS.TEXT_BOXES
        classes = dataset_classes(label_dataset_name(cfg))
        texts = class_texts(classes, settings.SYNONYMS)  # before large weights are read
        key = "PSEUDO_LABELS.TEXT_BOXES.DETECTOR"
        return {
            "detector": look_up(TEXT_DETECTOR_REGISTRY, settings.DETECTOR, key)(cfg),
            "texts": texts,
            "image_format": cfg.INPUT.FORMAT,
            "min_score": settings.MIN_SCORE,
            "nms_threshold": settings.NMS_THRESHOLD,
            "max_boxes": cfg.PSEUDO_LABELS.MAX_PEAKS,
            "other_classes": settings.OTHER_CLASSES,
            "other_min_score": settings.OTHER_MIN_SCORE,
        }

    @torch.no_grad()
    def forward(self, x: dict) -> LocationCues:
        """See :meth:`Localizer.forward`."""
        labels = sorted({int(label) for label in x["image_labels"]})
        others = [c for c in range(len(self.texts)) if c not in labels]
        groups = [labels, others] if self.other_classes else [labels]
        thresholds = (self.min_score, self.other_min_score)
        found, *missing = (
            self._instances(x, group, *detected, min_score)
            for group, detected, min_score in zip(groups, self._detect_all(x, groups), thresholds)
        )
        unlabelled = self._without_better(*missing, found) if missing else None
        boxes, size = found.pred_boxes.tensor, found.image_size
        coverage = box_coverage(boxes, size, _map_size(size))
        class_response_maps = coverage.new_zeros(len(self.texts), *coverage.shape[1:])
        for class_id, score, cells in zip(found.pred_classes, found.scores, coverage):
            response = class_response_maps[class_id]
            class_response_maps[class_id] = response.maximum(score * cells)
        points = found.pred_boxes.get_centers().flip(1).long()
        return LocationCues(
            class_ids=found.pred_classes,
            responses=found.scores,
            class_scores=found.scores,
            points=points.minimum(points.new_tensor(size) - 1),
            response_maps=coverage / coverage.sum((1, 2), keepdim=True),
            class_response_maps=class_response_maps,
            boxes=boxes,
            unlabelled=unlabelled,
        )

    def _detect_all(self, x: dict, groups: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`_detect` of each group of classes, in as few passes as there must be."""
        if not self.detector.texts_are_independent:
            for group in groups:
                yield self._detect(x, group)
            return
        boxes, scores = self._detect(x, sum(groups, []))
        for of_group in scores.split([len(group) for group in groups], dim=1):
            yield boxes, of_group

    def _detect(self, x: dict, class_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(N, 4) boxes in pixels of the original image and (N, C) scores of these C classes, on the
        CPU."""
        if not class_ids:
            return torch.zeros(0, 4), torch.zeros(0, 0)
        image = to_rgb(x["image"], self.image_format)
        texts = [self.texts[c] for c in class_ids]
        boxes, of_texts = self.detector.detect(image, sum(texts, []))
        of_classes = of_texts.split([len(of_class) for of_class in texts], dim=1)
        scores = torch.stack([s.amax(1) for s in of_classes], 1)
        return _to_size(boxes, image.shape[1:], (x["height"], x["width"])).cpu(), scores.cpu()

    def _instances(
        self, x: dict, class_ids: Sequence[int], boxes: Tensor, scores: Tensor, min_score: float
    ) -> Instances:
        """``pred_boxes``, ``scores`` and ``pred_classes``, best first."""
        if not class_ids:
            return Instances(
                (x["height"], x["width"]),
                pred_boxes=Boxes(torch.zeros(0, 4)),
                scores=torch.zeros(0),
                pred_classes=torch.zeros(0).long(),
            )
        scores, best = scores.max(1)
        instances = Instances(
            (x["height"], x["width"]),
            pred_boxes=Boxes(boxes),
            scores=scores,
            pred_classes=torch.tensor(class_ids)[best],
        )
        instances = instances[instances.pred_boxes.nonempty() & (scores >= min_score)]
        kept = batched_nms(
            instances.pred_boxes.tensor,
            instances.scores,
            instances.pred_classes,
            self.nms_threshold,
        )
        return instances[kept[: self.max_boxes]]

    def _without_better(self, instances: Instances, found: Instances) -> Instances:
        """Those that no better box of these, or of each other, overlaps, whatever its class."""
        everything = Instances.cat([found, instances])
        one_class = torch.zeros_like(everything.pred_classes)
        kept = batched_nms(
            everything.pred_boxes.tensor, everything.scores, one_class, self.nms_threshold
        )
        return everything[kept[kept >= len(found)]]


def box_coverage(boxes: Tensor, size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
    """How much of each cell of a map a box covers.

    Args:
        boxes: (P, 4) float, (x0, y0, x1, y1), inside the image.
        size: (height, width) of the image.
        map_size: (h, w) of a map over the image.

    Returns:
        (P, h, w) float in [0, 1].
    """

    def along(low: Tensor, high: Tensor, length: int, cells: int) -> Tensor:
        start = torch.arange(cells) * (length / cells)
        end = start + length / cells
        common = high[:, None].minimum(end) - low[:, None].maximum(start)
        return common.clamp(min=0) * (cells / length)

    x0, y0, x1, y1 = boxes.unbind(1)
    rows, columns = along(y0, y1, size[0], map_size[0]), along(x0, x1, size[1], map_size[1])
    return (rows[:, :, None] * columns[:, None]).clamp(max=1)


def _map_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _MAP_SIDE / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _to_size(boxes: Tensor, old: Sequence[int], new: tuple[int, int]) -> Tensor:
    """Boxes of an image of the old size on the new one, and inside of it."""
    boxes = Boxes(boxes)
    boxes.scale(new[1] / old[1], new[0] / old[0])
    boxes.clip(new)
    return boxes.tensor
