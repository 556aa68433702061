"""Semantic pseudo labels as palette PNGs: the last station of a label generator."""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from tqdm import tqdm

from ..data import semantic_truth
from ..data.image_folder import ImageFolder
from ..data.label_maps import read_label_map, write_label_map
from .label_maps import evaluate_label_maps


class SemSegLabelWriter(DatasetEvaluator):
    """Writes the ``sem_seg_labels`` that a label generator gives, one PNG per image.

    A PNG is named like its image (:func:`wsis_d2.files.label_file`) and has VOC's palette: 0
    background, c + 1 class c, 255 unknown. ``DATASETS.PSEUDO.SEM_SEG_ROOT`` takes the folder as it
    is. An image whose PNG is there is finished, so a run that was killed goes on from the folder.

    Every process writes the PNGs of its own images to the same folder.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str,
        settings: Mapping[str, Any],
        dataset_dicts: Sequence[Mapping[str, Any]] | None = None,
        resume: bool = False,
        replace: bool = True,
    ):
        """All processes must make the writer together.

        Args:
            dataset_name: the dataset that is labelled; its metadata gives classes and image root.
            output_dir: folder of the PNGs.
            settings: how the labels are made, kept in the folder's ``settings.json``.
            dataset_dicts: all the images, with ``file_name``, ``image_id``, ``height``, ``width``;
                default: those of the registered dataset.
            resume: take up the PNGs that are there; otherwise they are all made again.
            replace: whether PNGs made with other settings are removed, or refused.

        Raises:
            UserError: the folder cannot be written or holds PNGs of another origin, or two images
                would share one.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._folder = ImageFolder(output_dir, ".png", dataset_name, "output folder")
        if dataset_dicts is None:
            dataset_dicts = DatasetCatalog.get(dataset_name)
        self._dataset_dicts = list(dataset_dicts)
        if comm.is_main_process():
            self._folder.open(settings, replace=replace)
        comm.synchronize()
        missing = {d["image_id"] for d in self._folder.missing(self._dataset_dicts)}
        everything = {d["image_id"] for d in self._dataset_dicts}
        self._finished = everything - missing if resume else set()

    def finished_image_ids(self) -> set[Hashable]:
        """Images whose PNGs were there, made with the same settings; empty without ``resume``.

        All processes get the same set.
        """
        return set().union(*comm.all_gather(self._finished))

    # ---- DatasetEvaluator

    def reset(self) -> None:
        """Nothing is kept in memory."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``file_name``.
            outputs: dicts with ``sem_seg_labels``, the (H, W) uint8 label map of the original image
                size.
        """
        for input_, output in zip(inputs, outputs):
            label_map = torch.as_tensor(output["sem_seg_labels"]).cpu().numpy()
            write_label_map(self._folder.path(input_), label_map)

    def evaluate(self) -> OrderedDict:
        """Compare the PNGs with the dataset's true label maps.

        Returns:
            ``{"pseudo_sem_seg": {"mIoU", "IoU-background", "IoU-<class>", ...}}`` in percent, over
            the images that have a true map (see :func:`wsis_d2.data.semantic_truth`). Empty where
            none has, and in other processes.
        """
        comm.synchronize()
        if not comm.is_main_process():
            return OrderedDict()
        class_names = MetadataCatalog.get(self._dataset_name).thing_classes
        metrics = evaluate_label_maps(self._pairs(), class_names)
        if math.isnan(metrics["mIoU"]):
            self._logger.info(f"No true label maps of '{self._dataset_name}': not evaluated.")
            return OrderedDict()
        self._logger.info(
            f"Semantic pseudo labels of '{self._dataset_name}' (%):\n" + create_small_table(metrics)
        )
        return OrderedDict(pseudo_sem_seg=metrics)

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Label map and true label map of each image that has both."""
        written = [d for d in self._dataset_dicts if os.path.isfile(self._folder.path(d))]
        missing = len(self._dataset_dicts) - len(written)
        if missing:
            self._logger.warning(
                f"{missing} of {len(self._dataset_dicts)} images have no label map in "
                f"'{self._folder.folder}': they were not processed."
            )
        truth_of = semantic_truth(self._dataset_name)
        if truth_of is None:
            return
        for dataset_dict in tqdm(written, "label maps against true ones", unit="image", delay=3):
            truth = truth_of(dataset_dict)
            if truth is not None:
                yield read_label_map(self._folder.path(dataset_dict)), truth
