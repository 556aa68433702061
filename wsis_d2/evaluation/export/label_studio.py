"""Tasks of Label Studio with the masks as predictions, to be accepted or corrected there."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import quote

import numpy as np

from ...files import json_list, open_atomically, write_bytes
from ...structures import decode_mask
from .base import ExportFormat
from .labels import LabelImage, LabelMask, LabelSet

# Bits of the four lengths that a run may be written with; the values have eight.
_LENGTH_BITS = (3, 4, 8, 16)


class LabelStudio(ExportFormat):
    """``tasks_<split>.json``, to be imported, and ``labeling_config.xml``, the project's interface.

    Masks are brush labels, holes and pieces included, each with its score.
    """

    def image_path(self, image: LabelImage) -> str:
        return f"images/{image.file_name}"

    def write(self, labels: LabelSet, folder: str) -> None:
        for split, images in labels.splits.items():
            tasks = (self._task(image, labels) for image in images)
            with open_atomically(os.path.join(folder, f"tasks_{split}.json")) as file:
                file.writelines(piece.encode() for piece in json_list(tasks))
        write_bytes(os.path.join(folder, "labeling_config.xml"), _labeling_config(labels.classes))

    def _task(self, image: LabelImage, labels: LabelSet) -> dict[str, Any]:
        masks = self.objects(image)
        versions = [str(labels.info[key]) for key in ("generator", "version") if key in labels.info]
        prediction = {
            "model_version": " ".join(versions) or "pseudo labels",
            # By it tasks are sorted: how sure is the least certain mask? It has to be in 0 .. 1, as
            # not every method's scores are.
            "score": min(1.0, max(0.0, min((mask.score for mask in masks), default=0.0))),
            "result": [
                _region(f"{image.id}-{number}", mask, image, labels.classes[mask.label])
                for number, mask in enumerate(masks, start=1)
            ],
        }
        return {
            "data": {
                "image": self.image_url + quote(image.file_name),
                "file_name": image.file_name,
            },
            "predictions": [prediction],
        }


def _region(region_id: str, mask: LabelMask, image: LabelImage, name: str) -> dict[str, Any]:
    return {
        "id": region_id,
        "type": "brushlabels",
        "from_name": "masks",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": mask.score,
        "value": {
            "format": "rle",
            "rle": encode_brush(decode_mask(mask.rle)).tolist(),
            "brushlabels": [name],
        },
    }


def _labeling_config(classes: list[str]) -> bytes:
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = ET.SubElement(view, "BrushLabels", name="masks", toName="image")
    for name in classes:
        ET.SubElement(labels, "Label", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="utf-8")


def encode_brush(mask: np.ndarray) -> np.ndarray:
    """A mask in Label Studio's brush format, which is that of the package ``rle-pack``.

    The values of an RGBA image, row by row, all four 255 on the mask and 0 elsewhere, as a string
    of bits: their number (32 bits), the size of a value less one (5), four sizes of lengths, each
    less one (4 each); then runs of a 1, which of the four sizes (2), the length less one (so many)
    and the value (8).

    Args:
        mask: (H, W) bool.

    Returns:
        (N,) uint8, the bits as bytes.
    """
    values = mask.ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    starts = np.append(0, ends[:-1])
    bits = [f"{4 * len(values):032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in _LENGTH_BITS)]
    for start, end in zip(starts.tolist(), ends.tolist()):
        value = "11111111" if values[start] else "00000000"
        length = 4 * (end - start)
        while length > 0:
            run = min(length, 1 << _LENGTH_BITS[-1])
            size = next(i for i, n in enumerate(_LENGTH_BITS) if run <= 1 << n)
            bits.append(f"1{size:02b}{run - 1:0{_LENGTH_BITS[size]}b}{value}")
            length -= run
    return np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0"))
