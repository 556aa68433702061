"""Pseudo labels as a COCO-format file: the last station of a label generator."""

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from ..files import check_writable, write_json
from ..structures import encode_masks, mask_area, mask_box


class PseudoLabelWriter(DatasetEvaluator):
    """Writes the ``instances`` that a label generator gives as a COCO dataset.

    The file loads unchanged in pycocotools and in Detectron2's ``register_coco_instances`` (with
    ``INPUT.MASK_FORMAT`` "bitmask"). Images and annotations are in the order of the image ids and
    of an image's instances, so any number of processes write the same bytes. File names are
    relative to the dataset's ``image_root``, category ids are the source dataset's own.

    With a ``partial_dir``, every process appends the labels of each finished image to a file of its
    own there; a run that was killed goes on from these files.
    """

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
    ):
        """
        Args:
            dataset_name: the dataset that is labelled; its metadata gives classes and image root.
            output_file: the JSON to write.
            info: the ``info`` block of the file: how the labels were made. Must not differ between
                runs that should give the same bytes (no dates).
            min_score: instances below are not written.
            dataset_dicts: the images to list, all of them with ``file_name``, ``image_id``,
                ``height``, ``width``; default: those of the registered dataset.
            partial_dir: folder of the partial files; None: none are written. They are removed when
                the output is there.
            fingerprint: tells runs apart that would give other labels; only partial files of the
                same fingerprint are taken up.
            resume: take up partial files; otherwise they are begun afresh.

        Raises:
            UserError: the output or the partial folder cannot be written.
        """
        self._logger = logging.getLogger(__name__)
        self._output_file = output_file
        self._info = dict(info)
        self._min_score = min_score
        self._metadata = MetadataCatalog.get(dataset_name)
        if dataset_dicts is None:
            dataset_dicts = DatasetCatalog.get(dataset_name)
        self._images = sorted(map(self._image_entry, dataset_dicts), key=lambda image: image["id"])

        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous is None:
            contiguous = {i: i for i in range(len(self._metadata.thing_classes))}
        self._category_ids = {v: k for k, v in contiguous.items()}

        if comm.is_main_process():
            check_writable(output_file)
        self._partial_dir = partial_dir
        self._partial_prefix = f"labels-{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}-"
        self._partial_file = None
        self._resumed = {}
        if partial_dir is not None:
            self._open_partial(resume)
        self.reset()

    def _image_entry(self, record: Mapping[str, Any]) -> dict[str, Any]:
        image_root = self._metadata.get("image_root")
        file_name = record["file_name"]
        if image_root:
            file_name = os.path.relpath(file_name, image_root).replace(os.sep, "/")
        return {
            "id": record["image_id"],
            "file_name": file_name,
            "height": int(record["height"]),
            "width": int(record["width"]),
        }

    # ---- partial files: one JSON line [image_id, annotations] per finished image

    def _partial_files(self, prefix: str) -> list[str]:
        names = sorted(os.listdir(self._partial_dir))
        return [
            os.path.join(self._partial_dir, name)
            for name in names
            if name.startswith(prefix) and name.endswith(".jsonl")
        ]

    def _open_partial(self, resume: bool) -> None:
        path = os.path.join(self._partial_dir, f"{self._partial_prefix}{comm.get_rank()}.jsonl")
        check_writable(path)
        if resume:
            for other in self._partial_files(self._partial_prefix):
                with open(other, "rb") as f:
                    self._resumed.update(_complete_records(f.read())[0])
        elif comm.is_main_process():
            # Each process begins its own file afresh; these are of a run with more processes.
            current = {f"{self._partial_prefix}{i}.jsonl" for i in range(comm.get_world_size())}
            for other in self._partial_files(self._partial_prefix):
                if os.path.basename(other) not in current:
                    os.unlink(other)
        self._partial_file = open(path, "ab" if resume else "wb")  # noqa: SIM115
        if resume:
            # What a killed run left of its last line must not become part of the next one.
            with open(path, "rb") as f:
                self._partial_file.truncate(_complete_records(f.read())[1])

    def finished_image_ids(self) -> set[Hashable]:
        """Images whose labels were taken up from partial files, to be left out of this run.

        All processes must call it together; they get the same set.
        """
        return set().union(*comm.all_gather(set(self._resumed)))

    # ---- DatasetEvaluator

    def reset(self) -> None:
        self._records = dict(self._resumed)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances`` of the original image size: ``pred_masks`` (N, H, W)
                bool, ``scores`` (N,), ``pred_classes`` (N,) contiguous ids; maybe ``candidates``,
                per instance a list of ``{"segmentation": RLE, "weight": float}``, which become an
                extra key that stock readers ignore; and maybe with
                ``ignore_regions``, whose ``pred_masks`` and ``pred_classes`` become COCO's crowd
                annotations: no instances, and nothing that stock Detectron2 trains on.
        """
        for input_, output in zip(inputs, outputs):
            annotations = self._annotations(output["instances"])
            if "ignore_regions" in output:
                annotations += self._crowd_annotations(output["ignore_regions"])
            self._records[input_["image_id"]] = annotations
            if self._partial_file is not None:
                line = json.dumps([input_["image_id"], annotations]) + "\n"
                self._partial_file.write(line.encode())
                self._partial_file.flush()

    def _annotations(self, instances: Instances) -> list[dict[str, Any]]:
        """COCO annotations without ids; instances with a low score or an empty mask are dropped."""
        return [
            {**self._annotation(rle, label, iscrowd=0), "score": round(score, 6), **extra}
            for rle, label, score, extra in zip(
                _rles(instances),
                instances.pred_classes.tolist(),
                instances.scores.tolist(),
                _candidates(instances),
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
        gathered = comm.gather(self._records, dst=0)
        results = OrderedDict()
        if comm.is_main_process():
            results = self._write({k: v for part in gathered for k, v in part.items()})
        if self._partial_file is not None:
            self._partial_file.close()
            self._partial_file = None
            # The partial files go when the output is there, and nobody writes to them any more.
            comm.synchronize()
            if comm.is_main_process():
                self._remove_partial_files()
        return results

    def _write(self, records: Mapping[Hashable, list[dict[str, Any]]]) -> OrderedDict:
        missing = sum(image["id"] not in records for image in self._images)
        if missing:
            self._logger.warning(
                f"{missing} of {len(self._images)} images were not processed: they are written to "
                f"'{self._output_file}' without labels."
            )
        annotations = []
        for image in self._images:
            for annotation in records.get(image["id"], []):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image["id"], **annotation}
                )
        names = self._metadata.thing_classes
        categories = [
            {"id": category_id, "name": names[label]}
            for label, category_id in sorted(self._category_ids.items(), key=lambda item: item[1])
        ]
        write_json(
            self._output_file,
            {
                "info": self._info,
                "images": self._images,
                "annotations": annotations,
                "categories": categories,
            },
        )
        instances = [a for a in annotations if not a["iscrowd"]]
        counts = OrderedDict(
            images=len(self._images),
            images_with_labels=len({a["image_id"] for a in instances}),
            instances=len(instances),
        )
        self._logger.info(
            f"{counts['instances']} instances in {counts['images_with_labels']} of "
            f"{counts['images']} images were written to '{self._output_file}'."
        )
        return OrderedDict(pseudo_labels=counts)

    def _remove_partial_files(self) -> None:
        for path in self._partial_files("labels-"):
            os.unlink(path)
        if not os.listdir(self._partial_dir):
            os.rmdir(self._partial_dir)


def _rles(instances: Instances) -> list[dict[str, Any]]:
    """The masks (N, H, W) as RLEs."""
    return encode_masks(instances.pred_masks.detach().cpu().numpy())


def _candidates(instances: Instances) -> list[dict[str, Any]]:
    """What each annotation says of its candidates: nothing where the generator gives none."""
    if not instances.has("candidates"):
        return [{} for _ in range(len(instances))]
    return [
        {"candidates": [{**c, "weight": round(c["weight"], 6)} for c in candidates]}
        for candidates in instances.candidates
    ]


def _complete_records(content: bytes) -> tuple[dict[Hashable, list], int]:
    """Records of the complete lines of a partial file, and the length of these lines in bytes.

    A line is complete when it ends with a line break and is JSON; nothing after the first one that
    is not is trusted.
    """
    records, length = {}, 0
    for line in content.splitlines(keepends=True):
        try:
            image_id, annotations = json.loads(line)
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        records[image_id] = annotations
        length += len(line)
    return records, length
