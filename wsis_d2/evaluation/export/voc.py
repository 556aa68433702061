"""A PASCAL VOC devkit."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np

from ...data import UNKNOWN, write_label_map
from ...errors import UserError
from ...files import write_bytes, write_text
from ...structures import decode_mask, mask_box
from .base import ExportFormat
from .labels import TRAIN, VAL, LabelImage, LabelMask, LabelSet

_MAX_VALUE = UNKNOWN - 1  # of a map's pixel; 0 is the background


class VocDevkit(ExportFormat):
    """``JPEGImages``, ``Annotations``, ``SegmentationClass``, ``SegmentationObject``, the lists in
    ``ImageSets``, and ``classes.txt``: the names of the values 1, 2, ... of the class maps.

    A pixel has one object there: where masks overlap, the one of the higher score keeps it. VOC's
    lists know no folders: ``beach/1.jpg`` becomes ``beach_1.jpg``.
    """

    def image_path(self, image: LabelImage) -> str:
        return f"JPEGImages/{image.file_name.replace('/', '_')}"

    def write(self, labels: LabelSet, folder: str) -> None:
        if len(labels.classes) > _MAX_VALUE:
            raise UserError(
                f"VOC's maps have room for {_MAX_VALUE} classes, but there are "
                f"{len(labels.classes)}: name those to export"
            )
        for image in labels.images:
            self._write_image(image, labels.classes, folder)
        _write_lines(os.path.join(folder, "classes.txt"), labels.classes)
        splits = labels.splits
        lists = {**{s: splits.get(s, []) for s in (TRAIN, VAL)}, "trainval": labels.images}
        for name, images in lists.items():
            for kind in ("Segmentation", "Main"):
                path = os.path.join(folder, "ImageSets", kind, f"{name}.txt")
                _write_lines(path, [_name(image) for image in images])

    def _write_image(self, image: LabelImage, classes: Sequence[str], folder: str) -> None:
        masks, object_map = self._paint(image)
        values = np.array([0, *(mask.label + 1 for mask in masks)], np.uint8)
        for kind, label_map in (("Object", object_map), ("Class", values[object_map])):
            path = os.path.join(folder, f"Segmentation{kind}", f"{_name(image)}.png")
            write_label_map(path, label_map)
        path = os.path.join(folder, "Annotations", f"{_name(image)}.xml")
        write_bytes(path, self._annotation(image, masks, classes))

    def _paint(self, image: LabelImage) -> tuple[list[LabelMask], np.ndarray]:
        """The masks that are seen, best score first, and the (H, W) uint8 map of their numbers."""
        masks = sorted(self.objects(image), key=lambda mask: -mask.score)
        if len(masks) > _MAX_VALUE:
            self.losses[f"are beyond the best {_MAX_VALUE} of their image: left out"] += (
                len(masks) - _MAX_VALUE
            )
        seen: list[LabelMask] = []
        object_map = np.zeros((image.height, image.width), np.uint8)
        for mask in masks[:_MAX_VALUE]:
            pixels = decode_mask(mask.rle)
            free = pixels & (object_map == 0)
            if not free.any():
                self.losses["are covered by masks of a higher score: left out"] += 1
                continue
            if (free != pixels).any():
                self.losses["overlap masks of a higher score, which keep the pixels"] += 1
            seen.append(mask)
            object_map[free] = len(seen)
        return seen, object_map

    def _annotation(
        self, image: LabelImage, masks: Sequence[LabelMask], classes: Sequence[str]
    ) -> bytes:
        """The XML of an image; boxes are those of the whole masks, in VOC's pixels from 1 on."""
        root = ET.Element("annotation")
        _add(root, folder="JPEGImages", filename=os.path.basename(self.image_path(image)))
        _add(ET.SubElement(root, "size"), width=image.width, height=image.height, depth=3)
        _add(root, segmented=1)
        for mask in masks:
            x, y, width, height = map(int, mask_box(mask.rle))
            element = ET.SubElement(root, "object")
            _add(element, name=classes[mask.label], pose="Unspecified", truncated=0, difficult=0)
            box = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
            _add(ET.SubElement(element, "bndbox"), **box)
            _add(element, score=f"{mask.score:g}")  # VOC's own readers pass over it
        ET.indent(root)
        return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _name(image: LabelImage) -> str:
    return image.stem.replace("/", "_")


def _add(element: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(element, tag).text = str(text)


def _write_lines(path: str, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
