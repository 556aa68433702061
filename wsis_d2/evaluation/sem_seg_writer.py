"""Semantic pseudo labels as palette PNGs: the last station of a label generator."""

import json
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
from ..data.label_maps import read_label_map, write_label_map
from ..errors import UserError
from ..files import check_writable_folder, label_file, to_json_value, write_json
from .label_maps import evaluate_label_maps

SETTINGS_FILE = "settings.json"
"""File in the folder of the label maps that says what they were made with."""


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
    ):
        """All processes must make the writer together.

        Args:
            dataset_name: the dataset that is labelled; its metadata gives classes and image root.
            output_dir: folder of the PNGs.
            settings: how the labels are made, kept in the folder's ``settings.json``. PNGs made
                with others are removed.
            dataset_dicts: all the images, with ``file_name``, ``image_id``, ``height``, ``width``;
                default: those of the registered dataset.
            resume: take up the PNGs that are there; otherwise they are all made again.

        Raises:
            UserError: the folder cannot be written or holds PNGs of another origin, or two images
                would share one.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._image_root = MetadataCatalog.get(dataset_name).get("image_root", "")
        if dataset_dicts is None:
            dataset_dicts = DatasetCatalog.get(dataset_name)
        self._dataset_dicts = list(dataset_dicts)
        self._check_names()
        if comm.is_main_process():
            self._open(to_json_value(settings))
        comm.synchronize()
        self._finished = set()
        if resume:
            self._finished = {
                d["image_id"] for d in self._dataset_dicts if os.path.isfile(self._path(d))
            }

    def _path(self, dataset_dict: Mapping[str, Any]) -> str:
        return label_file(self._output_dir, dataset_dict["file_name"], self._image_root, ".png")

    def _check_names(self) -> None:
        file_names: dict[str, str] = {}
        for dataset_dict in self._dataset_dicts:
            other = file_names.setdefault(self._path(dataset_dict), dataset_dict["file_name"])
            if other != dataset_dict["file_name"]:
                raise UserError(
                    f"images '{other}' and '{dataset_dict['file_name']}' would share a label map, "
                    "as their names differ in the extension alone: rename one"
                )

    def _open(self, settings: dict[str, Any]) -> None:
        """Make the folder one of these settings."""
        check_writable_folder(self._output_dir)
        settings_file = os.path.join(self._output_dir, SETTINGS_FILE)
        if _read_settings(settings_file) == settings:
            return
        present = [p for p in map(self._path, self._dataset_dicts) if os.path.isfile(p)]
        if present and not os.path.isfile(settings_file):
            raise UserError(
                f"'{self._output_dir}' holds PNGs of these images but no {SETTINGS_FILE}, so they "
                "are of another origin and are left alone: choose another output folder"
            )
        for path in present:
            os.unlink(path)
        write_json(settings_file, settings, indent=2)

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
            write_label_map(self._path(input_), label_map)

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
        written = [d for d in self._dataset_dicts if os.path.isfile(self._path(d))]
        missing = len(self._dataset_dicts) - len(written)
        if missing:
            self._logger.warning(
                f"{missing} of {len(self._dataset_dicts)} images have no label map in "
                f"'{self._output_dir}': they were not processed."
            )
        truth_of = semantic_truth(self._dataset_name)
        if truth_of is None:
            return
        for dataset_dict in tqdm(written, "label maps against true ones", unit="image", delay=3):
            truth = truth_of(dataset_dict)
            if truth is not None:
                yield read_label_map(self._path(dataset_dict)), truth


def _read_settings(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None
