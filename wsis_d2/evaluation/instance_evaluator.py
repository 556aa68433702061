"""Evaluation of predicted or pseudo instance masks inside Detectron2's inference loop."""

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from ..data import ground_truth_json
from ..errors import UserError
from ..files import write_json
from ..parallel import synchronize_patiently
from .coco_format import ground_truths_of, read_coco_json
from .instance_ap import evaluate_instance_masks
from .metrics_table import flatten_instance_metrics, format_instance_metrics


class InstanceMaskEvaluator(DatasetEvaluator):
    """VOC AP and ABO of the ``instances`` that a model or a label generator gives.

    The true masks are those of the dataset's ground-truth JSON, which no training stage reads: its
    ``gt_json`` where it is an image-level dataset, else the ``json_file`` of a stock one. Only
    images that were processed and are listed in that file count.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        iou_thresholds: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
        area_bounds: tuple[float, float] = (1024.0, 9216.0),
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: a registered dataset.
            output_dir: where to write ``instance_masks.json``, all metrics; None: nowhere.
            iou_thresholds, area_bounds: see :func:`evaluate_instance_masks`.
            distributed: gather from all processes, which must make the evaluator together; only the
                main one gets results.

        Raises:
            UserError: the dataset is not registered, or its ground-truth file is missing or is not
                in COCO format.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._iou_thresholds = tuple(iou_thresholds)
        self._area_bounds = tuple(area_bounds)
        self._distributed = distributed
        self._metadata = MetadataCatalog.get(dataset_name)
        # By the main process alone: it may have to convert the dataset's own format first. Before
        # inference: a bad file should be found early.
        self._gt_file, self._gt = "", None
        if comm.is_main_process() or not distributed:
            self._gt_file = ground_truth_json(dataset_name)
            self._gt = read_coco_json(self._gt_file) if self._gt_file else None
        if distributed:
            synchronize_patiently()
            self._gt_file = comm.all_gather(self._gt_file)[0]
        self.reset()

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances`` of the original image size: ``pred_boxes``,
                ``pred_masks`` (N, H, W) bool, ``scores``, ``pred_classes`` (contiguous ids). Those
                without masks, a box detector's, are not evaluated.
        """
        if not self._gt_file:
            return
        for input_, output in zip(inputs, outputs):
            instances = output["instances"].to("cpu")
            if instances.has("pred_masks"):
                self._predictions.append(
                    (input_["image_id"], instances_to_coco_json(instances, input_["image_id"]))
                )

    def evaluate(self) -> OrderedDict:
        """
        Returns:
            ``{"instance_masks": {"AP25", ..., "ABO", "AP50-small", "AP50-2-4 objects", ...}}`` in
            percent (see :func:`flatten_instance_metrics`). Empty where the dataset has no ground
            truth, without predictions and in other processes.

        Raises:
            UserError: none of the images is in the ground-truth file.
        """
        if not self._gt_file:
            self._logger.info(f"No true masks are known of '{self._dataset_name}': not evaluated.")
            return OrderedDict()
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            predictions = list(itertools.chain(*gathered))
        if not predictions:
            self._logger.warning("InstanceMaskEvaluator did not receive any masks.")
            return OrderedDict()

        # In the order of the images, so that equal scores are ranked alike in any number of
        # processes.
        predictions = sorted(predictions, key=lambda prediction: prediction[0])
        image_ids = {image_id for image_id, _ in predictions}
        image_ids &= {image["id"] for image in self._gt["images"]}
        if not image_ids:
            raise UserError(
                f"no image of '{self._dataset_name}' is listed in its ground truth "
                f"'{self._gt_file}': check that both use the same image ids"
            )
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        dataset_ids = {v: k for k, v in contiguous.items()}
        detections = [
            {**instance, "category_id": dataset_ids.get(category, category)}
            for image_id, instances in predictions
            for instance in instances
            for category in [instance["category_id"]]
            if image_id in image_ids
        ]
        truths = [a for a in self._gt["annotations"] if a["image_id"] in image_ids]
        metrics = evaluate_instance_masks(
            detections,
            ground_truths_of({**self._gt, "annotations": truths}, self._gt_file),
            self._iou_thresholds,
            self._area_bounds,
        )
        class_names = {category["id"]: category["name"] for category in self._gt["categories"]}
        self._logger.info(
            f"Instance masks of {len(image_ids)} images of '{self._dataset_name}' (%):\n"
            + format_instance_metrics(metrics, class_names)
        )
        if self._output_dir:
            path = os.path.join(self._output_dir, "instance_masks.json")
            write_json(path, metrics, indent=2)
        return OrderedDict(instance_masks=flatten_instance_metrics(metrics, class_names))
