"""Evaluation of image-level classifiers."""

import logging
from collections import OrderedDict

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from ..errors import UserError


def multilabel_average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of every class: the precision at each rise of recall, weighted by the rise.

    The step-wise area under the precision-recall curve, without interpolation (scikit-learn's
    ``average_precision_score``). Images of equal score enter together, so the order of the images
    does not matter.

    Args:
        scores: (N, C) float, finite; higher means more likely.
        targets: (N, C) bool, the classes in each image.

    Returns:
        (C,) float64 in [0, 1]; nan for a class without positives.

    Raises:
        ValueError: shapes that differ or are not (N, C).
    """
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must both be (N, C), got {scores.shape} and {targets.shape}"
        )
    result = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-scores[:, c], kind="stable")
        sorted_scores = scores[order, c]
        # Last image of each run of equal scores: the thresholds that can be set.
        ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
        true_positives = np.cumsum(targets[order, c])[ends]
        precision = true_positives / (ends + 1)
        result[c] = (precision * np.diff(true_positives, prepend=0)).sum() / true_positives[-1]
    return result


class MultiLabelEvaluator(DatasetEvaluator):
    """Mean average precision of the ``image_scores`` of a classifier.

    The truth is the ``image_labels`` of the inputs: contiguous class ids, as the dataset has them.
    """

    def __init__(self, dataset_name: str, distributed: bool = True):
        """
        Args:
            dataset_name: gives the class names (``thing_classes`` of its metadata).
            distributed: gather from all processes; only the main one gets results.
        """
        self._class_names = MetadataCatalog.get(dataset_name).get("thing_classes")
        self._distributed = distributed
        self._logger = logging.getLogger(__name__)
        self.reset()

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_labels``, a sequence or int tensor (K,).
            outputs: dicts with ``image_scores``, a float tensor (C,).

        Raises:
            UserError: a score is no finite number; NaN would be ranked like any other.
        """
        for input_, output in zip(inputs, outputs):
            scores = output["image_scores"].detach().float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise UserError(
                    f"the classifier's scores of image '{input_.get('file_name')}' are no finite "
                    "numbers: its training diverged, so lower the learning rate and train again"
                )
            target = np.zeros(len(scores), dtype=bool)
            target[[int(label) for label in input_["image_labels"]]] = True
            self._predictions.append((scores, target))

    def evaluate(self) -> OrderedDict:
        """
        Returns:
            ``{"classification": {"mAP", "AP-<class>", ...}}`` in percent; mAP is the mean over the
            classes that have images. Empty without predictions and in other processes.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            predictions = [prediction for part in gathered for prediction in part]
        if not predictions:
            self._logger.warning("MultiLabelEvaluator did not receive any predictions.")
            return OrderedDict()

        scores, targets = (np.stack(arrays) for arrays in zip(*predictions))
        ap = 100 * multilabel_average_precision(scores, targets)
        names = self._class_names or [str(c) for c in range(len(ap))]
        result = OrderedDict(mAP=float(np.nanmean(ap)) if targets.any() else float("nan"))
        result.update((f"AP-{name}", float(value)) for name, value in zip(names, ap))
        self._logger.info(
            f"Classification of {len(scores)} images (%):\n" + create_small_table(result)
        )
        return OrderedDict(classification=result)
