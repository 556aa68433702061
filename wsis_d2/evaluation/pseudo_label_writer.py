"""Pseudo labels as a COCO-format file: the last station of a label generator."""

import logging
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from ..files import check_writable
from ..parallel import Shard
from ..structures import encode_masks, mask_area, mask_box
from .label_records import LabelRecords, RecordReader
from .label_shards import shard_file, shard_header, write_shard
from .pseudo_label_file import PseudoLabelFile


class PseudoLabelWriter(DatasetEvaluator):
    """Writes the ``instances`` that a label generator gives as a COCO dataset.

    The file loads unchanged in pycocotools and in Detectron2's ``register_coco_instances`` (with
    ``INPUT.MASK_FORMAT`` "bitmask"). Images and annotations are in the order of the image ids and
    of an image's instances, so any number of processes write the same bytes. File names are
    relative to the dataset's ``image_root``, category ids are the source dataset's own.

    Every process appends the labels of each finished image to a file of its own in a folder
    beside the output (:class:`~wsis_d2.evaluation.label_records.LabelRecords`); a run that was
    killed goes on from these files.
    """

    #: What its counts are in the results.
    _key = "pseudo_labels"

    def __init__(
        self,
        dataset_name: str,
        output_file: str,
        info: Mapping[str, Any],
        min_score: float = 0.0,
        dataset_dicts: Sequence[Mapping[str, Any]] | None = None,
        partial_dir: str | None = None,
        fingerprint: str = "",
        resume: bool = False,
        stale: Collection[Hashable] = (),
    ):
        """All processes must make the writer together, on a file system that they share.

        Args:
            dataset_name: the dataset that is labelled; its metadata gives classes and image root.
            output_file: the JSON to write.
            info: the ``info`` block of the file: how the labels were made. Must not differ between
                runs that should give the same bytes (no dates).
            min_score: instances below are not written.
            dataset_dicts: the images to list, all of them with ``file_name``, ``image_id``,
                ``height``, ``width``; default: those of the registered dataset.
            partial_dir: folder of the processes' files, which are removed when the output is
                there; default: ``output_file`` with ".partial" added.
            fingerprint: tells runs apart that would give other labels; only files of the same
                fingerprint are taken up.
            resume: take up the files of earlier runs; otherwise they are begun afresh.
            stale: images whose earlier labels are not taken up.

        Raises:
            UserError: the output or the folder of the processes' files cannot be written.
        """
        self._logger = logging.getLogger(__name__)
        self._min_score = min_score
        self._file = PseudoLabelFile(dataset_name, output_file, info, dataset_dicts)
        self._category_ids = self._file.category_ids
        if comm.is_main_process():
            check_writable(output_file)
        partial_dir = partial_dir or f"{output_file}.partial"
        self._records = LabelRecords(partial_dir, fingerprint, resume, stale)

    def finished_image_ids(self) -> set[Hashable]:
        """Images whose labels were taken up from an earlier run, to be left out of this one; the
        same set in all processes."""
        return self._records.resumed

    # ---- DatasetEvaluator

    def reset(self) -> None:
        self._records.clear()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances`` of the original image size: ``pred_masks`` (N, H, W)
                bool, ``scores`` (N,), ``pred_classes`` (N,) contiguous ids; maybe ``candidates``,
                per instance a list of ``{"segmentation": RLE, "weight": float}``, which become an
                extra key that stock readers ignore; maybe ``given``, per instance what a person
                gave of it or "", which becomes one, too, where it is not empty; and maybe with
                ``ignore_regions``, whose ``pred_masks`` and ``pred_classes`` become COCO's crowd
                annotations: no instances, and nothing that stock Detectron2 trains on.
        """
        for input_, output in zip(inputs, outputs):
            self._records.append(input_["image_id"], self._annotations_of(output))

    def _annotations_of(self, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        """COCO annotations of an image, without ids."""
        annotations = self._annotations(output["instances"])
        if "ignore_regions" in output:
            annotations += self._crowd_annotations(output["ignore_regions"])
        return annotations

    def _annotations(self, instances: Instances) -> list[dict[str, Any]]:
        """COCO annotations without ids; instances with a low score or an empty mask are dropped."""
        return [
            {**self._annotation(rle, label, iscrowd=0), "score": round(score, 6), **extra}
            for rle, label, score, extra in zip(
                _rles(instances),
                instances.pred_classes.tolist(),
                instances.scores.tolist(),
                _extra_keys(instances),
            )
            if mask_area(rle) > 0 and score >= self._min_score
        ]

    def _crowd_annotations(self, regions: Instances) -> list[dict[str, Any]]:
        return [
            self._annotation(rle, label, iscrowd=1)
            for rle, label in zip(_rles(regions), regions.pred_classes.tolist())
        ]

    def _annotation(self, rle: dict[str, Any], label: int, iscrowd: int) -> dict[str, Any]:
        return {
            "category_id": self._category_ids[label],
            "segmentation": rle,
            "bbox": mask_box(rle),
            "area": mask_area(rle),
            "iscrowd": iscrowd,
        }

    def evaluate(self) -> OrderedDict:
        """Write the file.

        Returns:
            ``{"pseudo_labels": {"images", "images_with_labels", "instances"}}``, counts; empty in
            other processes.
        """
        comm.synchronize()
        records = self._records.collect()
        if records is None:
            return OrderedDict()
        with records:
            self._warn_of_missing(records)
            counts = self._write(records)
        self._records.remove()
        return OrderedDict([(self._key, counts)])

    def _write(self, records: RecordReader) -> OrderedDict:
        return self._file.write(records.annotations)

    def _warn_of_missing(self, records: RecordReader) -> None:
        missing = sum(image["id"] not in records for image in self._file.images)
        if missing:
            self._logger.warning(
                f"{missing} of {len(self._file.images)} images were not processed: they are "
                f"written to '{self._file.path}' without labels."
            )


class ShardLabelWriter(PseudoLabelWriter):
    """Writes the labels of a shard of a dataset to a file of its own; see :class:`LabelShards`.

    Args:
        dataset_name, output_file, info, fingerprint: see :class:`PseudoLabelWriter`; the same for
            all shards.
        shard: which one.
        options: further arguments of :class:`PseudoLabelWriter`; ``dataset_dicts`` are the shard's.
    """

    def __init__(
        self,
        dataset_name: str,
        output_file: str,
        info: Mapping[str, Any],
        shard: Shard,
        *,
        fingerprint: str,
        **options,
    ):
        path = shard_file(output_file, shard)
        super().__init__(dataset_name, path, info, fingerprint=fingerprint, **options)
        self._header = shard_header(shard, info, fingerprint)

    def _write(self, records: RecordReader) -> OrderedDict:
        image_ids = [image["id"] for image in self._file.images]
        write_shard(self._file.path, self._header, image_ids, records.annotations)
        self._logger.info(f"Labels of {len(image_ids)} images were written to '{self._file.path}'.")
        return OrderedDict(images=len(image_ids))


class _LocatedBoxes:
    """Annotations are the ``located_boxes`` of a label generator, without masks."""

    _key = "located_boxes"
    _category_ids: Mapping[int, int]

    def _annotations_of(self, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        boxes = output["located_boxes"]
        corners = boxes.pred_boxes.tensor.double()
        sides = corners[:, 2:] - corners[:, :2]
        return [
            {
                "category_id": self._category_ids[label],
                "bbox": [round(number, 2) for number in box],
                "area": round(area, 2),
                "iscrowd": int(not is_labelled),
                "score": round(score, 6),
            }
            for box, area, label, score, is_labelled in zip(
                torch.cat([corners[:, :2], sides], 1).tolist(),
                sides.prod(1).tolist(),
                boxes.pred_classes.tolist(),
                boxes.scores.tolist(),
                boxes.is_labelled.tolist(),
            )
        ]


class LocatedBoxWriter(_LocatedBoxes, PseudoLabelWriter):
    """Writes the boxes that a label generator's localiser gives as a COCO dataset without masks.

    Boxes of classes that the image is not labelled with are crowd annotations, on which stock
    Detectron2 does not train. For the arguments see :class:`PseudoLabelWriter`.
    """


class ShardBoxWriter(_LocatedBoxes, ShardLabelWriter):
    """:class:`LocatedBoxWriter` for a shard, see :class:`ShardLabelWriter`."""


def _rles(instances: Instances) -> list[dict[str, Any]]:
    """The masks (N, H, W) as RLEs."""
    return encode_masks(instances.pred_masks.detach().cpu().numpy())


def _extra_keys(instances: Instances) -> list[dict[str, Any]]:
    """What each annotation says beyond COCO: its candidates, and what was given of it, if any."""
    extra: list[dict[str, Any]] = [{} for _ in range(len(instances))]
    if instances.has("candidates"):
        for keys, candidates in zip(extra, instances.candidates):
            keys["candidates"] = [{**c, "weight": round(c["weight"], 6)} for c in candidates]
    if instances.has("given"):
        for keys, given in zip(extra, instances.given):
            keys |= {"given": given} if given else {}
    return extra
