"""Quality of semantic label maps: mean IoU, and what seeds are worth.

Label maps are (H, W) integers: 0 background, c + 1 for class c, 255 unknown. Everything is computed
from a confusion matrix of pixels, (N, N + 1) for N labels: rows are true labels, columns predicted
ones, the last column pixels whose prediction is unknown. Matrices of images add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..layers import UNKNOWN


def confusion_matrix(
    prediction: np.ndarray, truth: np.ndarray, num_labels: int, ignore: int = UNKNOWN
) -> np.ndarray:
    """Count the pixels of each pair of true and predicted label.

    Args:
        prediction: (H, W) int in 0 .. num_labels - 1, or 255 where it is unknown.
        truth: (H, W) int in 0 .. num_labels - 1; pixels of the label ``ignore`` do not count.
        num_labels: number of classes and 1 for the background.
        ignore: true label of the pixels that nobody labelled.

    Returns:
        (num_labels, num_labels + 1) int64; see the module.

    Raises:
        ValueError: the maps differ in size, or hold other labels.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"maps of sizes {prediction.shape} and {truth.shape} cannot be compared")
    counts = truth != ignore
    prediction, truth = prediction[counts].astype(np.int64), truth[counts].astype(np.int64)
    known = prediction != UNKNOWN
    for what, labels in (("predicted", prediction[known]), ("true", truth)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_labels:
            raise ValueError(f"a {what} label is not in 0 .. {num_labels - 1}")
    prediction[~known] = num_labels
    size = (num_labels, num_labels + 1)
    pairs = np.ravel_multi_index((truth, prediction), size)
    return np.bincount(pairs, minlength=size[0] * size[1]).reshape(size)


def threshold_confusion_matrices(
    cam: np.ndarray,
    class_ids: np.ndarray,
    truth: np.ndarray,
    thresholds: Sequence[float],
    num_labels: int,
) -> np.ndarray:
    """Confusion matrices of CAMs at several background thresholds, in one pass.

    At a threshold t, a pixel has the class of the highest CAM where that is above t, else it is
    background: argmax([t, cam]).

    Args:
        cam: (C, H, W) float, C > 0.
        class_ids: (C,) contiguous class ids of the maps.
        truth: (H, W) int; see :func:`confusion_matrix`.
        thresholds: (T,), ascending.
        num_labels: number of classes and 1 for the background.

    Returns:
        (T, num_labels, num_labels + 1) int64.
    """
    labels = np.asarray(class_ids)[cam.argmax(0)] + 1
    # Number of the thresholds at which a pixel is foreground.
    passed = np.searchsorted(thresholds, cam.max(0), side="left")
    by_passed = np.stack(
        [
            confusion_matrix(labels, np.where(passed == n, truth, UNKNOWN), num_labels)
            for n in range(len(thresholds) + 1)
        ]
    )
    matrices = np.empty((len(thresholds), num_labels, num_labels + 1), np.int64)
    for index, matrix in enumerate(matrices):
        matrix[:] = by_passed[index + 1 :].sum(0)
        matrix[:, 0] += by_passed[: index + 1].sum((0, 2))
    return matrices


def label_ious(matrix: np.ndarray, unknown: str = "wrong") -> np.ndarray:
    """Intersection over union of each label.

    Args:
        matrix: (N, N + 1), see the module.
        unknown: what becomes of pixels without a prediction: "wrong", so that they are missing in
            the intersection with their true label, or "ignored".

    Returns:
        (N,) float64 in [0, 1]; nan for a label that is neither in the truth nor predicted.
    """
    if unknown not in ("wrong", "ignored"):
        raise ValueError(f"unknown must be 'wrong' or 'ignored', got {unknown!r}")
    known = matrix[:, :-1].astype(np.float64)
    true = (matrix if unknown == "wrong" else known).sum(1)
    intersection = np.diag(known)
    union = true + known.sum(0) - intersection
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray, unknown: str = "wrong") -> float:
    """Mean of :func:`label_ious` over the labels that occur, in percent; nan where none does.

    The mean over background and classes of VOC's segmentation challenge, and of the released codes
    of IRNet and AffinityNet.
    """
    ious = label_ious(matrix, unknown)
    return 100 * float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")


def evaluate_label_maps(
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    unknown: str = "wrong",
) -> dict[str, float]:
    """Compare predicted with true label maps.

    Args:
        maps: predicted and true map of each image; see :func:`confusion_matrix`.
        class_names: names of the labels 1, 2, ...
        unknown: see :func:`label_ious`.

    Returns:
        ``{"mIoU": ..., "IoU-background": ..., "IoU-<class>": ...}`` in percent.
    """
    num_labels = len(class_names) + 1
    matrix = np.zeros((num_labels, num_labels + 1), np.int64)
    for prediction, truth in maps:
        matrix += confusion_matrix(prediction, truth, num_labels)
    ious = 100 * label_ious(matrix, unknown)
    names = ["background", *class_names]
    return {
        "mIoU": mean_iou(matrix, unknown),
        **{f"IoU-{name}": float(iou) for name, iou in zip(names, ious)},
    }


def seed_metrics(matrix: np.ndarray) -> dict[str, float]:
    """What seeds are worth to a network that learns from them.

    Args:
        matrix: (N, N + 1), see the module.

    Returns:
        In percent, nan where undefined:

        * fg precision: pixels of the right class among those with the seed of a class.
        * bg precision: background among the seeds of the background.
        * fg recall: pixels with the seed of the right class among those of a class.
        * mIoU: over the pixels with a seed.
        * unknown: pixels without a seed.
    """
    right = np.diag(matrix)

    def percent(part: float, whole: float) -> float:
        return 100 * float(part) / float(whole) if whole else float("nan")

    return {
        "fg precision": percent(right[1:].sum(), matrix[:, 1:-1].sum()),
        "bg precision": percent(right[0], matrix[:, 0].sum()),
        "fg recall": percent(right[1:].sum(), matrix[1:].sum()),
        "mIoU": mean_iou(matrix, unknown="ignored"),
        "unknown": percent(matrix[:, -1].sum(), matrix.sum()),
    }
