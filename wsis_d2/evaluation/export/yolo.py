"""YOLO's segmentation labels, as Ultralytics trains on them."""

from __future__ import annotations

import os

import numpy as np
import yaml

from ...structures import decode_mask
from ...structures.polygons import join_rings, mask_rings, without_straight
from .base import ExportFormat
from .labels import VAL, LabelImage, LabelMask, LabelSet

# Readers turn coordinates into pixels by rounding (supervision) or by cutting (Ultralytics, which
# sets points between them before): nearly half a pixel on top gives both the pixel that is meant.
_ON_PIXEL = 0.49
# Of two points Ultralytics makes a box.
_MIN_POINTS = 3


class YoloSegmentation(ExportFormat):
    """``data.yaml``, ``images/<split>/`` and ``labels/<split>/``: one text file per image, one line
    per mask, a class number and the points of one polygon in parts of the image's size.

    Several pieces are tied together by lines one pixel wide, and a hole to its outline: readers
    fill polygons by parity, which leaves it open. There is no place for scores.
    """

    def image_path(self, image: LabelImage) -> str:
        return f"images/{image.split}/{_renamed(image.file_name)}"

    def write(self, labels: LabelSet, folder: str) -> None:
        for image in labels.images:
            lines = [self._line(mask, image) for mask in self.objects(image)]
            path = os.path.join(folder, "labels", image.split, f"{_renamed(image.stem)}.txt")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        splits = labels.splits
        content = {
            "train": "images/train",
            # Ultralytics wants one; without a split of its own it is what was trained on.
            "val": f"images/{VAL if VAL in splits else 'train'}",
            "names": dict(enumerate(labels.classes)),
        }
        with open(os.path.join(folder, "data.yaml"), "w", encoding="utf-8") as file:
            yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)

    def _line(self, mask: LabelMask, image: LabelImage) -> str:
        pieces = mask_rings(decode_mask(mask.rle), along="centers")
        rings = [ring for piece in pieces for ring in piece]
        if len(pieces) > 1:
            self.losses["have several pieces: tied together by lines one pixel wide"] += 1
        if len(rings) > len(pieces):
            self.losses["have holes: tied to the outline by slits, open to fills by parity"] += 1
        points = without_straight(join_rings(rings))
        missing = max(0, _MIN_POINTS - len(points))
        points = np.concatenate([points, points[-1:].repeat(missing, axis=0)])
        relative = (points + _ON_PIXEL) / (image.width, image.height)
        return " ".join([str(mask.label), *(f"{value:.6f}" for value in relative.ravel())])


def _renamed(path: str) -> str:
    """Ultralytics finds the labels of an image where the last folder ``images`` of its path is
    called ``labels``: that must be the export's own."""
    return "/".join("images_" if part == "images" else part for part in path.split("/"))
