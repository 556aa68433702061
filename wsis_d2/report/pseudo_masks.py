"""The masks of a file of pseudo labels: how far they agree, and which are to be reviewed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances

from ..data import Review
from ..evaluation import load_coco_detections, read_coco_json
from ..evaluation.coco_format import ground_truths_of
from ..files import file_sha256
from ..images import read_image
from ..structures import decode_mask, encode_mask, mask_iou, resize_masks
from ..structures.masks import RLE
from ..structures.polygons import mask_rings
from ..visualization import resize_image
from .panels import MIN_SHOWN_SCORE
from .review_section import ReviewImage, ReviewMask, ReviewTask

#: Of the pictures for review, in pixels.
LONG_SIDE = 320
#: In their pixels: how far an outline may be from the mask's.
_OUTLINE_TOLERANCE = 0.75

STUDENT, TRUTH = "the student", "the truth"


@dataclass(frozen=True)
class PseudoMask:
    """A pseudo mask.

    Attributes:
        id: of its annotation.
        label: index in :attr:`PseudoMasks.classes`.
        score: its score.
        rle: its pixels.
        truth: highest IoU with a true mask of its class; None where none are known of the image.
    """

    id: Hashable
    label: int
    score: float
    rle: RLE
    truth: float | None = None


class PseudoMasks:
    """All masks of a COCO dataset file of pseudo labels, by image.

    Args:
        labels_file: the file.
        truth_file: COCO dataset file of true masks, which may list other images; "": none.

    Attributes:
        classes: category id -> name, in the order in which Detectron2 numbers them.
        by_image: image id -> its masks, for all images of the file.
        truths: image id -> (index of the class, RLE) of its true masks; only images that the
            truth lists.
    """

    def __init__(self, labels_file: str, truth_file: str = ""):
        self.file = labels_file
        found, content = load_coco_detections(labels_file)
        annotations = [a for a in content["annotations"] if not a.get("iscrowd", 0)]
        names = {category["id"]: category["name"] for category in content["categories"]}
        self.classes = {id_: names[id_] for id_ in sorted(names)}
        labels = {category_id: label for label, category_id in enumerate(self.classes)}
        self.truths = _truths(truth_file, labels) if truth_file else {}
        self.by_image: dict[Hashable, list[PseudoMask]] = {i["id"]: [] for i in content["images"]}
        for number, (mask, annotation) in enumerate(zip(found, annotations)):
            image_id, label = mask["image_id"], labels[mask["category_id"]]
            truth = None
            if image_id in self.truths:
                others = [rle for other, rle in self.truths[image_id] if other == label]
                truth = _best_iou(mask["segmentation"], others)
            id_ = annotation.get("id", number)
            self.by_image[image_id].append(
                PseudoMask(id_, label, mask["score"], mask["segmentation"], truth)
            )

    def count(self, class_names: Sequence[str]) -> list[int]:
        """Number of masks of each of these classes."""
        names = list(self.classes.values())
        counts = Counter(names[m.label] for masks in self.by_image.values() for m in masks)
        return [counts[name] for name in class_names]

    def failures(self, count: int) -> list[tuple[Hashable, float]]:
        """The images whose true objects are covered worst.

        Args:
            count: how many at most.

        Returns:
            (image id, mean over its true masks of the highest IoU with a pseudo mask of the class),
            worst first.
        """
        covered = []
        for image_id, truths in self.truths.items():
            masks = self.by_image.get(image_id)
            if not truths or masks is None:
                continue
            best = [
                _best_iou(rle, [mask.rle for mask in masks if mask.label == label])
                for label, rle in truths
            ]
            covered.append((image_id, float(np.mean(best))))
        return sorted(covered, key=lambda item: item[1])[:count]

    def instances(
        self, image_id: Hashable, size: tuple[int, int], class_names: Sequence[str]
    ) -> Instances:
        """An image's masks as a label generator gives them.

        Args:
            image_id: the image.
            size: its (height, width).
            class_names: in the order of the generator's class ids, which may be another one.
        """
        masks = self.by_image[image_id]
        class_ids = [list(class_names).index(name) for name in self.classes.values()]
        pixels = np.zeros((len(masks), *size), dtype=bool)
        for pixel, mask in zip(pixels, masks):
            pixel[:] = decode_mask(mask.rle)
        return Instances(
            size,
            pred_masks=torch.from_numpy(pixels),
            scores=torch.tensor([mask.score for mask in masks]),
            pred_classes=torch.tensor([class_ids[m.label] for m in masks], dtype=torch.int64),
        )


def _truths(path: str, labels: Mapping[Hashable, int]) -> dict[Hashable, list[tuple[int, RLE]]]:
    content = read_coco_json(path)
    truths: dict[Hashable, list[tuple[int, RLE]]] = {i["id"]: [] for i in content["images"]}
    for truth in ground_truths_of(content, path):
        if truth["category_id"] in labels:
            truths[truth["image_id"]].append((labels[truth["category_id"]], truth["segmentation"]))
    return truths


def _best_iou(rle: RLE, others: Sequence[RLE]) -> float:
    """Highest IoU of a mask with others, 0 without any."""
    return float(mask_iou([rle], others).max()) if others else 0.0


def review_task(
    masks: PseudoMasks,
    records: Mapping[Hashable, Mapping[str, Any]],
    class_names: Sequence[str],
    predict: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    done: Review | None = None,
    max_images: int = 300,
) -> ReviewTask:
    """What is to be reviewed: all masks, with pictures of the images whose masks are worst.

    Args:
        masks: the pseudo masks.
        records: image id -> dataset dict, with ``image_labels``.
        class_names: names of the classes in ``image_labels``.
        predict: from a dataset dict to the student's output, which holds ``instances``; it is
            called once for each picture.
        done: the review that the student's training heeded.
        max_images: so many have a picture in the page, and the student looks at each of them.
    """
    chosen = _worst_images(masks, records, done, max_images)
    numbers = {image_id: number for number, image_id in enumerate(chosen)}
    images = []
    reviewed = [
        ReviewMask(mask.id, mask.label, mask.score, agreements=(None, mask.truth))
        for image_id, found in masks.by_image.items()
        if image_id not in numbers
        for mask in found
    ]
    for image_id in chosen:
        record, found = records[image_id], masks.by_image[image_id]
        image = read_image(record["file_name"], "RGB")
        image = resize_image(image, min(1.0, LONG_SIDE / max(image.shape[:2])))
        labels = [class_names[c] for c in record.get("image_labels", ())]
        images.append(ReviewImage(os.path.basename(record["file_name"]), image, labels))
        students = _student_agreements(found, predict(record)["instances"])
        reviewed += [
            ReviewMask(
                mask.id,
                mask.label,
                mask.score,
                numbers[image_id],
                outline(decode_mask(mask.rle), image.shape[:2]),
                (student, mask.truth),
            )
            for mask, student in zip(found, students)
        ]
    return ReviewTask(
        file_sha256(masks.file), masks.classes, reviewed, images, (STUDENT, TRUTH), done
    )


def _worst_images(
    masks: PseudoMasks,
    records: Mapping[Hashable, Mapping[str, Any]],
    done: Review | None,
    count: int,
) -> list[Hashable]:
    """Images by their undecided mask that agrees least with the truth or, without truth, that has
    the lowest score."""
    decided = done.accepted | done.rejected | set(done.classes) if done else frozenset()
    has_truth = any(m.truth is not None for found in masks.by_image.values() for m in found)

    def badness(found: Sequence[PseudoMask]) -> float:
        undecided = [mask for mask in found if mask.id not in decided]
        if not has_truth:
            return min((mask.score for mask in undecided), default=np.inf)
        return min((m.truth for m in undecided if m.truth is not None), default=np.inf)

    shown = [image_id for image_id, found in masks.by_image.items() if found]
    shown = [image_id for image_id in shown if image_id in records]
    return sorted(shown, key=lambda image_id: badness(masks.by_image[image_id]))[:count]


def _student_agreements(masks: Sequence[PseudoMask], instances: Instances) -> list[float]:
    """Highest IoU of each mask with a confident prediction of its class."""
    instances = instances.to("cpu")
    instances = instances[instances.scores >= MIN_SHOWN_SCORE]
    predicted = [encode_mask(np.asarray(mask)) for mask in instances.pred_masks]
    labels = instances.pred_classes.tolist()
    return [
        _best_iou(m.rle, [rle for rle, label in zip(predicted, labels) if label == m.label])
        for m in masks
    ]


def outline(mask: np.ndarray, size: tuple[int, int]) -> str:
    """The outline of a mask, drawn on a picture of another size, as an SVG path.

    Args:
        mask: (H, W) bool.
        size: (height, width) of the picture.

    Returns:
        Rings of whole pixels, to be filled by parity; of a mask that is too small for the picture
        its pixel there.
    """
    small = resize_masks(mask, size)
    if not small.any():
        x, y = cv2.boundingRect(mask.astype(np.uint8))[:2]
        small[y * size[0] // mask.shape[0], x * size[1] // mask.shape[1]] = True
    rings = [ring for piece in mask_rings(small) for ring in piece]
    return "".join(map(_path, rings))


def _path(ring: np.ndarray) -> str:
    simple = cv2.approxPolyDP(ring.astype(np.int32), _OUTLINE_TOLERANCE, closed=True).reshape(-1, 2)
    points = simple if len(simple) > 2 else ring
    return f"M{' '.join(f'{x} {y}' for x, y in points.tolist())}Z"
