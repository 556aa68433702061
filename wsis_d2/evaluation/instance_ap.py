"""Average precision and average best overlap of instance masks, as published for PASCAL VOC.

The AP is that of Hariharan et al. (ECCV 2014) as chainercv's ``eval_instance_segmentation_voc``
computes it (area under the precision envelope), which IRNet (Ahn et al., CVPR 2019) reports. The
average best overlap is that of Pont-Tuset and Van Gool (ICCV 2015), reported for PRM.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..structures import mask_areas, mask_iou, to_rle

SIZE_GROUPS = ("small", "medium", "large")
# Name and smallest number of true objects in the image; each group ends where the next begins.
COUNT_GROUPS = (("1", 1), ("2-4", 2), ("5+", 5))


@dataclass
class _Overlaps:
    """All that AP and ABO need to know of the masks: D detections, T truths, over all images.

    Detections are in the order of their scores, best first; equal scores keep the order given.
    """

    detection_class: np.ndarray  # (D,) index into categories
    detection_image: np.ndarray  # (D,) index of the image
    detection_area: np.ndarray  # (D,) pixels
    best_truth: np.ndarray  # (D,) truth of highest IoU in the same image and class; -1: none there
    best_iou: np.ndarray  # (D,) the IoU with it
    truth_class: np.ndarray  # (T,)
    truth_image: np.ndarray  # (T,)
    truth_area: np.ndarray  # (T,)
    best_overlap: np.ndarray  # (T,) highest IoU of a detection in the same image and class, or 0
    categories: list[int]


def _read_masks(instances, what, sizes, image_sizes) -> list[dict[str, Any]]:
    """RLEs of the instances; ``sizes`` collects and checks the size of every image."""
    rles = []
    for instance in instances:
        image_id = instance["image_id"]
        try:
            rle = to_rle(instance["segmentation"], image_sizes.get(image_id))
        except ValueError as error:
            raise UserError(f"a {what} of image {image_id} is not a mask: {error}") from None
        size = tuple(rle["size"])
        if sizes.setdefault(image_id, size) != size:
            raise UserError(
                f"a {what} of image {image_id} is a mask of {size[0]} x {size[1]} pixels where "
                f"others have {sizes[image_id][0]} x {sizes[image_id][1]}: masks must have the "
                "size of the original image"
            )
        rles.append(rle)
    return rles


def _compute_overlaps(detections, ground_truths, image_sizes) -> _Overlaps:
    scores = np.array([float(d.get("score", 1.0)) for d in detections])
    if not np.isfinite(scores).all():
        raise UserError("the scores of detections must be finite numbers")
    order = np.argsort(-scores, kind="stable")
    detections = [detections[i] for i in order]

    sizes: dict[Hashable, tuple[int, int]] = {}
    truth_rles = _read_masks(ground_truths, "ground truth", sizes, image_sizes)
    detection_rles = _read_masks(detections, "detection", sizes, image_sizes)
    image_index = {image_id: i for i, image_id in enumerate(sizes)}
    everything = [*ground_truths, *detections]
    categories = sorted({instance["category_id"] for instance in everything})
    class_index = {category: i for i, category in enumerate(categories)}

    def indices(instances, index, key):
        return np.array([index[instance[key]] for instance in instances], dtype=np.int64)

    def by_image_and_class(instances):
        groups = defaultdict(list)
        for i, instance in enumerate(instances):
            groups[instance["image_id"], instance["category_id"]].append(i)
        return groups

    best_truth = np.full(len(detections), -1)
    best_iou = np.zeros(len(detections))
    best_overlap = np.zeros(len(ground_truths))
    detection_groups = by_image_and_class(detections)
    for group, truths in by_image_and_class(ground_truths).items():
        found = detection_groups.get(group)
        if not found:
            continue
        iou = mask_iou([detection_rles[i] for i in found], [truth_rles[i] for i in truths])
        best_truth[found] = np.asarray(truths)[iou.argmax(axis=1)]
        best_iou[found] = iou.max(axis=1)
        best_overlap[truths] = iou.max(axis=0)

    return _Overlaps(
        detection_class=indices(detections, class_index, "category_id"),
        detection_image=indices(detections, image_index, "image_id"),
        detection_area=mask_areas(detection_rles),
        best_truth=best_truth,
        best_iou=best_iou,
        truth_class=indices(ground_truths, class_index, "category_id"),
        truth_image=indices(ground_truths, image_index, "image_id"),
        truth_area=mask_areas(truth_rles),
        best_overlap=best_overlap,
        categories=categories,
    )


def _average_precision(positive: np.ndarray, num_truths: int) -> float:
    """Area under the precision envelope; ``positive`` (D,) bool, best score first."""
    if num_truths == 0:
        return float("nan")
    precision = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / num_truths at each true positive, and nowhere else.
    return float(envelope[positive].sum() / num_truths)


def _evaluate_class(
    overlaps: _Overlaps, index: int, thresholds, truth_counts, detection_counts
) -> dict[str, float]:
    mine = overlaps.detection_class == index
    truths = (overlaps.truth_class == index) & truth_counts
    best_truth, best_iou = overlaps.best_truth[mine], overlaps.best_iou[mine]
    counts_if_unmatched = detection_counts[mine]
    num_truths = int(truths.sum())

    metrics = {}
    for threshold in thresholds:
        hits = np.flatnonzero((best_truth >= 0) & (best_iou >= threshold))
        # The best-scored detection takes the truth; the others on it are unmatched.
        _, first = np.unique(best_truth[hits], return_index=True)
        positive = np.zeros(len(best_truth), dtype=bool)
        positive[hits[first]] = True
        counts = counts_if_unmatched.copy()
        counts[positive] = truth_counts[best_truth[positive]]
        ap = _average_precision(positive[counts], num_truths)
        metrics[f"AP{100 * threshold:g}"] = 100 * ap
    metrics["ABO"] = 100 * float(overlaps.best_overlap[truths].mean()) if num_truths else np.nan
    metrics["num_objects"] = num_truths
    return metrics


def _mean_over_classes(per_class: Mapping[int, Mapping[str, float]], keys) -> dict[str, float]:
    """Means over the classes that have truths, and the number of their objects."""
    with_truths = [metrics for metrics in per_class.values() if metrics["num_objects"]]
    means = {
        key: float(np.mean([metrics[key] for metrics in with_truths]))
        if with_truths
        else float("nan")
        for key in keys
    }
    means["num_objects"] = sum(metrics["num_objects"] for metrics in with_truths)
    return means


def evaluate_instance_masks(
    detections: Sequence[Mapping[str, Any]],
    ground_truths: Sequence[Mapping[str, Any]],
    iou_thresholds: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
    area_bounds: tuple[float, float] = (1024.0, 9216.0),
    image_sizes: Mapping[Hashable, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Evaluate instance masks with VOC's average precision and the average best overlap.

    AP of a class: its detections of all images, best score first (equal scores in the order given),
    each look at the true object of highest IoU in their image. The detection is a true positive if
    that IoU reaches the threshold and no earlier detection has taken the object, else a false
    positive. AP is the area under the envelope of precision over recall.

    ABO of a class: the mean over its true objects of the highest IoU of any detection of the class
    in the image, whatever its score; 0 for an object without any.

    Both are averaged over the classes that have true objects.

    By size and by count, only the true objects in question count. As in COCO's evaluation, a
    detection that takes an object outside of the group is ignored, and so is an unmatched
    detection whose own size (or image) is outside. Sizes are areas of masks in pixels.

    Args:
        detections: COCO-style dicts ``{"image_id", "category_id", "segmentation", "score"}``; the
            segmentation is an RLE (compressed or not) or polygons, the score defaults to 1.
        ground_truths: the same without score. Leave crowd regions out.
        iou_thresholds: IoUs in (0, 1] that make a detection positive.
        area_bounds: areas in pixels at which "medium" and "large" begin.
        image_sizes: (height, width) by image id; only polygons need it.

    Returns:
        dict, in percent, nan where a group has no true object::

            {"AP25", ..., "ABO", "num_objects",
             "per_class": {category_id: {"AP25", ..., "ABO", "num_objects"}},
             "by_size": {"small" | "medium" | "large": {...}},
             "by_count": {"1" | "2-4" | "5+": {...}}}  # true objects in the image

        with one "AP" per threshold, named by its percentage.

    Raises:
        UserError: a mask is unreadable, masks of an image differ in size, a score is not finite.
        ValueError: thresholds or bounds that make no sense.
    """
    if not all(0 < threshold <= 1 for threshold in iou_thresholds):
        raise ValueError(f"IoU thresholds must be in (0, 1], got {tuple(iou_thresholds)}")
    if len(area_bounds) != 2 or not 0 <= area_bounds[0] <= area_bounds[1]:
        raise ValueError(f"area_bounds must be two ascending areas, got {tuple(area_bounds)}")
    overlaps = _compute_overlaps(detections, ground_truths, image_sizes or {})

    def evaluate(truth_counts, detection_counts):
        return {
            category: _evaluate_class(
                overlaps, index, iou_thresholds, truth_counts, detection_counts
            )
            for index, category in enumerate(overlaps.categories)
        }

    keys = [*(f"AP{100 * threshold:g}" for threshold in iou_thresholds), "ABO"]
    per_class = evaluate(
        np.ones(len(overlaps.truth_class), dtype=bool),
        np.ones(len(overlaps.detection_class), dtype=bool),
    )

    truth_size = np.digitize(overlaps.truth_area, area_bounds)
    detection_size = np.digitize(overlaps.detection_area, area_bounds)
    by_size = {
        name: _mean_over_classes(evaluate(truth_size == i, detection_size == i), keys)
        for i, name in enumerate(SIZE_GROUPS)
    }

    num_images = 1 + max(
        overlaps.truth_image.max(initial=-1), overlaps.detection_image.max(initial=-1)
    )
    objects_in_image = np.bincount(overlaps.truth_image, minlength=num_images)
    # 0 for images without true objects, which are in no group.
    count_group = np.digitize(objects_in_image, [start for _, start in COUNT_GROUPS])
    by_count = {
        name: _mean_over_classes(
            evaluate(
                count_group[overlaps.truth_image] == i + 1,
                count_group[overlaps.detection_image] == i + 1,
            ),
            keys,
        )
        for i, (name, _) in enumerate(COUNT_GROUPS)
    }
    return {
        **_mean_over_classes(per_class, keys),
        "per_class": per_class,
        "by_size": by_size,
        "by_count": by_count,
    }
