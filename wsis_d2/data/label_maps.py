"""Semantic label maps: 0 background, c + 1 for the contiguous class c, 255 unknown or ignored."""

import io
import os
from collections.abc import Callable, Hashable, Mapping, Set
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from ..errors import UserError
from ..files import load_json, write_bytes
from ..layers import UNKNOWN
from ..structures import decode_mask, mask_area, to_rle
from .catalog import ground_truth_json

__all__ = ["UNKNOWN", "read_label_map", "semantic_truth", "voc_palette", "write_label_map"]


def voc_palette() -> np.ndarray:
    """The VOC devkit's colours, (256, 3) uint8: bits 3i, 3i + 1, 3i + 2 of a label are bit 7 - i of
    its red, green and blue."""
    labels = np.arange(256)[:, None]
    channels = np.arange(3)
    palette = sum(((labels >> (3 * i + channels)) & 1) << (7 - i) for i in range(3))
    return palette.astype(np.uint8)


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """Read the labels of a palette or 8-bit gray PNG.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is missing, damaged, or a colour image.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            mode = image.mode
    except FileNotFoundError as error:
        raise UserError(
            f"label map '{path}' is missing: make it, or check the folder's name"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        raise UserError(
            f"label map '{path}' cannot be read ({error}): delete it and make it again"
        ) from error
    raise UserError(
        f"'{path}' is an image of mode {mode}, not a map of label numbers: save it as a palette or "
        "8-bit gray PNG"
    )


def write_label_map(path: str | os.PathLike, label_map: np.ndarray) -> None:
    """Write a palette PNG in VOC's colours, atomically; see :func:`wsis_d2.files.write_bytes`.

    Args:
        path: the file; its folder is made.
        label_map: (H, W) uint8.

    Raises:
        ValueError: the map is not (H, W) uint8.
        UserError: the file cannot be written.
    """
    label_map = np.asarray(label_map)
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        raise ValueError(
            f"a label map must be (H, W) uint8, got {label_map.shape} {label_map.dtype}"
        )
    image = Image.fromarray(np.ascontiguousarray(label_map))
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def semantic_truth(dataset_name: str) -> Callable[[Mapping[str, Any]], np.ndarray | None] | None:
    """True label maps of a dataset, for evaluation alone.

    A VOC devkit has them in ``SegmentationClass``, with 255 along contours; a split that is
    evaluated on another one's images (:func:`wsis_d2.data.evaluation_dataset`) has those of that
    one. Elsewhere the instances
    of the ground-truth JSON are painted, larger ones first so that small ones stay visible; crowd
    regions are 255 where no instance covers them.

    Args:
        dataset_name: a registered dataset.

    Returns:
        A function from a dataset dict (``file_name``, ``image_id``, ``height``, ``width``) to the
        image's (H, W) uint8 label map, or to None for an image without one; None where the dataset
        has no ground truth at all.

    Raises:
        UserError: the dataset is not registered or its ground truth is missing or damaged; of the
            function, that a map cannot be read.
    """
    gt_json = ground_truth_json(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    devkit_root = metadata.get("devkit_root")
    if devkit_root:
        folder = os.path.join(devkit_root, "SegmentationClass")
        if not os.path.isdir(folder):
            return None
        if not (gt_json and metadata.get("evaluation_dataset")):
            return _DevkitTruth(folder)
    elif not gt_json:
        return None
    try:
        content = load_json(gt_json)
        if devkit_root:
            return _DevkitTruth(folder, {image["id"] for image in content["images"]})
        contiguous_ids = metadata.get("thing_dataset_id_to_contiguous_id")
        return _InstanceTruth(gt_json, content, contiguous_ids)
    except (KeyError, TypeError, UserError, ValueError) as error:
        raise UserError(
            f"'{gt_json}', the ground truth of dataset '{dataset_name}', is damaged or not in "
            f"COCO's instance format ({error}): make it again"
        ) from error


class _DevkitTruth:
    """Label maps of a VOC devkit, of all images that have one or of those of these ids alone."""

    def __init__(self, folder: str, image_ids: Set[int] | None = None):
        self.folder = folder
        self.image_ids = image_ids

    def __call__(self, dataset_dict: Mapping[str, Any]) -> np.ndarray | None:
        if self.image_ids is not None and dataset_dict["image_id"] not in self.image_ids:
            return None
        stem = os.path.splitext(os.path.basename(dataset_dict["file_name"]))[0]
        path = os.path.join(self.folder, f"{stem}.png")
        return read_label_map(path) if os.path.exists(path) else None


class _InstanceTruth:
    """The painted instances of a COCO JSON.

    Args:
        path: of the JSON, for messages.
        content: what it holds.
        contiguous_ids: contiguous id of each category; None: in the order of their ids.

    Raises:
        KeyError, TypeError, ValueError: it is not in COCO's instance format.
    """

    def __init__(self, path: str, content: Any, contiguous_ids: Mapping[int, int] | None):
        self.path = path
        if contiguous_ids is None:
            ids = sorted({category["id"] for category in content["categories"]})
            contiguous_ids = {id_: i for i, id_ in enumerate(ids)}
        self.labels = {id_: i + 1 for id_, i in contiguous_ids.items()}
        # (Whether it is a crowd, category, segmentation) of each instance.
        self.instances: dict[Hashable, list[tuple[bool, Any, Any]]]
        self.instances = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            is_crowd = "iscrowd" in annotation and bool(annotation["iscrowd"])
            instance = (is_crowd, annotation["category_id"], annotation["segmentation"])
            # Those of images that the file does not list are of no use.
            self.instances.get(annotation["image_id"], []).append(instance)

    def __call__(self, dataset_dict: Mapping[str, Any]) -> np.ndarray | None:
        instances = self.instances.get(dataset_dict["image_id"])
        if instances is None:
            return None
        size = (dataset_dict["height"], dataset_dict["width"])
        label_map = np.zeros(size, np.uint8)
        masks = []
        for is_crowd, category, segmentation in instances:
            try:
                label = UNKNOWN if is_crowd else self.labels[category]
                rle = to_rle(segmentation, size)
            except (KeyError, TypeError):
                raise self._wrong(dataset_dict, f"is of category {category}, no class") from None
            except ValueError as error:
                raise self._wrong(dataset_dict, f"is not a mask: {error}") from None
            if tuple(rle["size"]) != size:
                raise self._wrong(dataset_dict, f"has not the image's size {size}")
            masks.append((not is_crowd, -mask_area(rle), rle, label))
        # Crowds first, then from large to small.
        for *_, rle, label in sorted(masks, key=lambda mask: mask[:2]):
            label_map[decode_mask(rle)] = label
        return label_map

    def _wrong(self, dataset_dict: Mapping[str, Any], what: str) -> UserError:
        return UserError(
            f"an annotation of image {dataset_dict['image_id']} in '{self.path}' {what}: correct it"
        )
