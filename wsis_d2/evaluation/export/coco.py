"""COCO JSON with polygons, and COCO's layout as FiftyOne imports it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ...structures import decode_mask, mask_area, mask_box
from ...structures.polygons import join_rings, mask_rings, without_straight
from ..coco_format import write_coco_json
from .base import ExportFormat
from .labels import LabelImage, LabelMask, LabelSet


class CocoPolygons(ExportFormat):
    """``annotations/instances_<split>.json`` and ``images/``; one polygon per piece of a mask.

    pycocotools and Detectron2 fill the polygons to the very same masks; a hole is tied to its
    outline by a slit, as COCO adds the polygons of an object up.
    """

    def image_path(self, image: LabelImage) -> str:
        return f"images/{image.file_name}"

    def labels_path(self, split: str) -> str:
        """Where the JSON of a split lies, relative to the export's folder."""
        return f"annotations/instances_{split}.json"

    def write(self, labels: LabelSet, folder: str) -> None:
        category_ids = list(labels.category_ids.values())
        categories = [{"id": id_, "name": name} for name, id_ in labels.category_ids.items()]
        for split, images in labels.splits.items():
            entries = [
                {"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width}
                for i in images
            ]
            path = os.path.join(folder, self.labels_path(split))
            annotations = self._annotations(images, category_ids)
            write_coco_json(path, labels.info, entries, annotations, categories)

    def _annotations(self, images: Sequence[LabelImage], category_ids: list) -> Iterator[dict]:
        numbers = itertools.count(1)
        for image in images:
            for mask in image.masks:
                yield {
                    "id": next(numbers),
                    "image_id": image.id,
                    "category_id": category_ids[mask.label],
                    # COCO's crowd regions are RLEs always.
                    "segmentation": mask.rle if mask.is_crowd else self.segmentation(mask),
                    "bbox": mask_box(mask.rle),
                    "area": mask_area(mask.rle),
                    "iscrowd": int(mask.is_crowd),
                    **({} if mask.is_crowd else {"score": mask.score}),
                }

    def segmentation(self, mask: LabelMask) -> Any:
        """COCO's segmentation of a mask."""
        pieces = mask_rings(decode_mask(mask.rle))
        return [without_straight(join_rings(rings)).ravel().tolist() for rings in pieces]


class FiftyOne(CocoPolygons):
    """``<split>/labels.json`` and ``<split>/data/``: FiftyOne's ``COCODetectionDataset``.

    Its importer takes RLEs, so that the masks are the same, and ``score`` as the confidence.
    FiftyOne itself is not needed here.
    """

    def image_path(self, image: LabelImage) -> str:
        return f"{image.split}/data/{image.file_name}"

    def labels_path(self, split: str) -> str:
        return f"{split}/labels.json"

    def segmentation(self, mask: LabelMask) -> Any:
        return mask.rle
