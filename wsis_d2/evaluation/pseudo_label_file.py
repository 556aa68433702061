"""The COCO-format file of pseudo labels, written image by image."""

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_format import write_coco_json


class PseudoLabelFile:
    """A COCO dataset of pseudo labels.

    Images are in the order of their ids, file names relative to the dataset's ``image_root``,
    category ids the source dataset's own.

    Args:
        dataset_name: the dataset that is labelled; its metadata gives classes and image root.
        path: the JSON to write.
        info: its ``info`` block.
        dataset_dicts: the images to list, all of them with ``file_name``, ``image_id``, ``height``,
            ``width``; default: those of the registered dataset.

    Attributes:
        images: their entries.
        category_ids: the source dataset's id of each contiguous one.
    """

    def __init__(
        self,
        dataset_name: str,
        path: str,
        info: Mapping[str, Any],
        dataset_dicts: Sequence[Mapping[str, Any]] | None = None,
    ):
        self.path = path
        self.info = dict(info)
        metadata = MetadataCatalog.get(dataset_name)
        if dataset_dicts is None:
            dataset_dicts = DatasetCatalog.get(dataset_name)
        image_root = metadata.get("image_root")
        images = (_image_entry(record, image_root) for record in dataset_dicts)
        self.images = sorted(images, key=lambda image: image["id"])
        self._names = metadata.thing_classes
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous is None:
            contiguous = {i: i for i in range(len(self._names))}
        self.category_ids = {v: k for k, v in contiguous.items()}

    def write(self, annotations_of: Callable[[Hashable], list[dict[str, Any]]]) -> OrderedDict:
        """Write the file; the labels of one image are in memory at a time.

        Args:
            annotations_of: gives an image's COCO annotations without ``id`` and ``image_id``. It
                is called once per image, in the order of their ids.

        Returns:
            Counts, ``{"images", "images_with_labels", "instances"}``.
        """
        counts = OrderedDict(images=len(self.images), images_with_labels=0, instances=0)

        def annotations() -> Iterator[dict[str, Any]]:
            numbers = itertools.count(1)
            for image in self.images:
                found = annotations_of(image["id"])
                for annotation in found:
                    yield {"id": next(numbers), "image_id": image["id"], **annotation}
                instances = sum(not a["iscrowd"] for a in found)
                counts["images_with_labels"] += instances > 0
                counts["instances"] += instances

        categories = [
            {"id": category_id, "name": self._names[label]}
            for label, category_id in sorted(self.category_ids.items(), key=lambda item: item[1])
        ]
        write_coco_json(self.path, self.info, self.images, annotations(), categories)
        logging.getLogger(__name__).info(
            f"{counts['instances']} instances in {counts['images_with_labels']} of "
            f"{counts['images']} images were written to '{self.path}'."
        )
        return counts


def _image_entry(record: Mapping[str, Any], image_root: str | None) -> dict[str, Any]:
    file_name = record["file_name"]
    if image_root:
        file_name = os.path.relpath(file_name, image_root).replace(os.sep, "/")
    return {
        "id": record["image_id"],
        "file_name": file_name,
        "height": int(record["height"]),
        "width": int(record["width"]),
    }
