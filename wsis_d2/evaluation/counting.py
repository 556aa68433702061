"""Evaluation of object counts."""

import logging
from collections import OrderedDict

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table


def count_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Errors of counts: root mean squares over images, averaged over classes.

    The published measures (Chattopadhyay et al., "Counting Everyday Objects in Everyday Scenes",
    CVPR 2017, section 5; Cholakkal et al., CVPR 2019, section 4).

    Args:
        predicted: (N, C) whole numbers.
        true: (N, C) whole numbers, at least 0.

    Returns:
        ``mRMSE`` over all images; ``m-relRMSE``, whose squared errors are divided by the true count
        plus 1; and both with ``-nz``, over the images that show the class. Classes without such
        images do not enter; nan where there is none.

    Raises:
        ValueError: shapes that differ or are not (N, C).
    """
    predicted, true = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    if true.ndim != 2 or predicted.shape != true.shape:
        raise ValueError(
            f"counts must both be (N, C), got {predicted.shape} (predicted) and {true.shape} (true)"
        )
    squared = (predicted - true) ** 2
    return {
        name + suffix: _mean_over_classes(errors, counted)
        for suffix, counted in (("", np.ones_like(true, dtype=bool)), ("-nz", true > 0))
        for name, errors in (("mRMSE", squared), ("m-relRMSE", squared / (true + 1)))
    }


def _mean_over_classes(errors: np.ndarray, counted: np.ndarray) -> float:
    """Mean over classes of the root of the mean of the (N, C) errors that are counted."""
    number = counted.sum(0)
    present = number > 0
    if not present.any():
        return float("nan")
    mean = (errors * counted).sum(0)[present] / number[present]
    return float(np.sqrt(mean).mean())


class CountEvaluator(DatasetEvaluator):
    """Errors of the ``image_counts`` that a model predicts, rounded to whole objects.

    The truth is what the dataset itself counts, not what the model's input says: that is cut off at
    ``DATASETS.MAX_COUNT``. A count that a CSV leaves open (``5+``) is taken for its least value.
    """

    def __init__(self, dataset_name: str, distributed: bool = True):
        """
        Args:
            dataset_name: a registered dataset.
            distributed: gather from all processes; only the main one gets results.
        """
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._logger = logging.getLogger(__name__)
        self._truth = {
            d["image_id"]: dict(zip(d["image_labels"], d["image_counts"]))
            for d in DatasetCatalog.get(dataset_name)
            if all(d.get("image_counts") or [0])
        }
        self.reset()

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_id``; images of unknown count are left out.
            outputs: dicts with ``image_counts``, a float tensor (C,).
        """
        for input_, output in zip(inputs, outputs):
            truth = self._truth.get(input_["image_id"])
            if truth is None:
                continue
            predicted = output["image_counts"].detach().float().cpu().numpy()
            true = np.zeros(len(predicted))
            true[list(truth)] = list(truth.values())
            self._predictions.append((np.round(predicted), true))

    def evaluate(self) -> OrderedDict:
        """
        Returns:
            ``{"counts": {"mRMSE", "m-relRMSE", "mRMSE-nz", "m-relRMSE-nz"}}``, in objects. Empty
            without images of known count and in other processes.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            predictions = [prediction for part in gathered for prediction in part]
        if not predictions:
            self._logger.warning(f"No counts are known of '{self._dataset_name}': not evaluated.")
            return OrderedDict()
        result = count_errors(*(np.stack(arrays) for arrays in zip(*predictions)))
        self._logger.info(
            f"Counts in {len(predictions)} images of '{self._dataset_name}':\n"
            + create_small_table(result)
        )
        return OrderedDict(counts=result)
