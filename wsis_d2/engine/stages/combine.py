"""Combine several files of pseudo labels into one whose scores say how far they agree."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ... import __version__
from ...data import (
    StrongerLabel,
    check_image_level_dataset,
    dataset_dicts,
    ground_truth_json,
    label_dataset_name,
    read_stronger_labels,
)
from ...errors import UserError
from ...evaluation import (
    PseudoLabelFile,
    load_coco_detections,
    read_coco_json,
    reliability_curve,
)
from ...evaluation.coco_format import ground_truths_of
from ...evaluation.label_records import RecordReader
from ...files import check_writable, file_sha256, write_json
from ...labeling import (
    Candidates,
    CombinedMask,
    GivenMask,
    MaskCombiner,
    apply_stronger_labels,
    are_right,
    class_overlap,
    fit_calibration,
    read_calibration,
    relative_ranks,
)
from ...structures import mask_area, mask_box
from .pseudo_labels import PSEUDO_LABEL_FILE, instance_label_metrics, stronger_label_metrics

logger = logging.getLogger(__name__)

#: The "generator" in the ``info`` of combined labels.
GENERATOR = "Agreement"


def calibration_file(output_file: str) -> str:
    """Where the calibration that was fitted for combined labels is saved."""
    return os.path.splitext(output_file)[0] + "_calibration.json"


def combine_labels(cfg: CfgNode, output_file: str = "", resume: bool = False) -> dict:
    """Combine the files in ``AGREEMENT.LABELS`` and write ``output_file``.

    Masks of classes that are not in an image's label are left out. The points, boxes and masks of
    ``PSEUDO_LABELS.STRONGER_LABELS`` take the place of what was combined. In memory are one of the
    files, while it is read, and then the masks of one image at a time.

    Args:
        cfg: reads ``AGREEMENT`` and ``PSEUDO_LABELS.STRONGER_LABELS``; the dataset to label is that
            of the files.
        output_file: COCO-format JSON to write; empty: ``OUTPUT_DIR/pseudo_labels.json``. A fitted
            calibration is saved beside it, see :func:`calibration_file`.
        resume: makes no difference: combining takes seconds, the labels are always made anew.

    Returns:
        ``{"combined_labels": {"AP25": ..., "ABO": ..., ...}, "calibration": {"ECE", "bins"}}``, the
        second by :func:`wsis_d2.evaluation.reliability_curve` on the images whose true masks the
        scores were not fitted to, where there are any; both where the dataset has ground truth.
        With stronger labels also ``"stronger_labels"``, as
        :func:`wsis_d2.engine.make_pseudo_labels` has it, whose images are not in the curve.

    Raises:
        UserError: a file is missing, damaged or of another dataset, or settings make no sense.
    """
    output_file = output_file or os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE)
    options = cfg.AGREEMENT
    _check_options(options)
    data = _LabelledData.of(label_dataset_name(cfg))
    path = cfg.PSEUDO_LABELS.STRONGER_LABELS
    given = read_stronger_labels(path, data.name) if path else {}
    check_writable(output_file)
    with ExitStack() as opened:
        folder = os.path.dirname(os.path.abspath(output_file))
        folder = opened.enter_context(TemporaryDirectory(dir=folder, prefix=".labels."))
        sources = [
            opened.enter_context(_Source(path, number, data, folder))
            for number, path in enumerate(options.LABELS)
        ]
        student = _known(options.STUDENT, options.LABELS, sources)
        if options.STUDENT and student is None:
            student = _Source(options.STUDENT, len(sources), data, folder)
            opened.enter_context(student)
        combiner = _build_combiner(options, sources, data)
        fitted: set[Hashable] = set()
        if options.TRUE_MASKS:
            combiner, fitted = _calibrate(combiner, sources, data, options.TRUE_MASKS)
            write_json(calibration_file(output_file), combiner.calibration.to_json(), indent=2)
        labeller = _Labeller(combiner, sources, student, data)
        check = _ReliabilityCheck(data, fitted | set(given))
        file = PseudoLabelFile(
            data.name, output_file, _info(cfg, data.name, combiner), list(data.images.values())
        )

        def annotations_of(image_id: Hashable) -> list[dict[str, Any]]:
            combined = labeller.label(image_id)
            check.add(image_id, combined)
            combined = _with_given(combined, given.get(image_id, ()), data.size(image_id))
            return [_annotation(mask, file.category_ids) for mask in combined]

        file.write(annotations_of)
    metrics = instance_label_metrics(cfg, output_file)
    counts = stronger_label_metrics(given, output_file)
    if not metrics:
        return counts
    return {"combined_labels": metrics, **check.metrics(), **counts}


def _check_options(options: CfgNode) -> None:
    if not options.LABELS:
        raise UserError("AGREEMENT.LABELS is empty: name the files of pseudo labels to combine")
    if len(set(map(os.path.realpath, options.LABELS))) < len(options.LABELS):
        raise UserError("AGREEMENT.LABELS names a file twice: it would agree with itself")
    for key in ("IOU_THRESHOLD", "CONTAINMENT"):
        if not 0 < options[key] <= 1:
            raise UserError(f"AGREEMENT.{key} is {options[key]}: give a number in (0, 1]")
    if options.MASK not in ("best", "vote"):
        raise UserError(f"AGREEMENT.MASK is '{options.MASK}': choose best or vote")
    if options.CALIBRATION and options.TRUE_MASKS:
        raise UserError(
            "AGREEMENT.CALIBRATION and AGREEMENT.TRUE_MASKS are both set: take a calibration that "
            "is there, or fit one"
        )


def _known(path: str, paths: Sequence[str], sources: Sequence[_Source]) -> _Source | None:
    """The source of a file among those of others, None where it is none of them."""
    pairs = zip(paths, sources)
    return next((s for p, s in pairs if os.path.realpath(p) == os.path.realpath(path)), None)


@dataclass(frozen=True)
class _LabelledData:
    """The dataset that is labelled.

    Attributes:
        name: its name.
        images: its dicts by their ``image_id``.
        classes: names of the classes.
        class_of: the class of each category id.
    """

    name: str
    images: Mapping[Hashable, Mapping[str, Any]]
    classes: Sequence[str]
    class_of: Mapping[Hashable, int]

    @classmethod
    def of(cls, name: str) -> _LabelledData:
        dataset = dataset_dicts(name)
        metadata = MetadataCatalog.get(name)
        classes = list(metadata.thing_classes)
        check_image_level_dataset(dataset, classes)
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        return cls(
            name,
            {d["image_id"]: d for d in dataset},
            classes,
            dict(enumerate(range(len(classes)))) if ids is None else dict(ids),
        )

    def size(self, image_id: Hashable) -> tuple[int, int]:
        image = self.images[image_id]
        return int(image["height"]), int(image["width"])

    def check_categories(self, path: str, instances: Sequence[dict], content: Any) -> None:
        """Raise a UserError where a file has other classes than the dataset."""
        unknown = {i["category_id"] for i in instances} - set(self.class_of)
        if unknown:
            raise UserError(
                f"'{path}' has the category id {min(unknown, key=str)!r}, which dataset "
                f"'{self.name}' does not have: it is of another dataset"
            )
        for category in content["categories"] if content else []:
            name = self.classes[self.class_of.get(category["id"], 0)]
            if category["id"] in self.class_of and category["name"] != name:
                raise UserError(
                    f"category {category['id']} is '{category['name']}' in '{path}' and '{name}' "
                    f"in dataset '{self.name}': it is of another dataset"
                )

    def check_size(self, path: str, instance: Mapping[str, Any]) -> None:
        """Raise a UserError where a mask has another size than its image."""
        size = self.size(instance["image_id"])
        if tuple(instance["segmentation"]["size"]) != size:
            raise UserError(
                f"a mask of image {instance['image_id']!r} in '{path}' is of "
                f"{' x '.join(map(str, instance['segmentation']['size']))} pixels, the image of "
                f"{size[0]} x {size[1]}: it is of another dataset"
            )


class _Source:
    """The masks of a file, those of classes in the images' labels; a context manager.

    Args:
        path: COCO dataset or list of COCO results.
        number: of the source.
        data: the dataset.
        folder: where the masks are kept while the context lasts.

    Attributes:
        name: the generator that made it, "predictions" where the file does not say.
    """

    def __init__(self, path: str, number: int, data: _LabelledData, folder: str):
        sizes = {image_id: data.size(image_id) for image_id in data.images}
        detections, content = load_coco_detections(path, sizes)
        data.check_categories(path, detections, content)
        info = content.get("info") if content else None
        name = info.get("generator") if isinstance(info, dict) else None
        self.name = name if isinstance(name, str) else "predictions"
        self.number = number
        self._class_of = data.class_of
        records, scores = defaultdict(list), defaultdict(list)
        for detection in detections:
            image = data.images.get(detection["image_id"])
            if image is None:
                continue
            data.check_size(path, detection)
            label = data.class_of[detection["category_id"]]
            if label in image["image_labels"]:
                records[detection["image_id"]].append({**detection, "iscrowd": 0})
                scores[label].append(detection["score"])
        if detections and not records:
            raise UserError(
                f"'{path}' has no mask of an image of dataset '{data.name}' and a class in its "
                "label: it is of another dataset"
            )
        kept = sum(map(len, records.values()))
        logger.info(f"{kept} of {len(detections)} masks in '{path}' are of classes in the labels")
        self._scores = {label: np.sort(values) for label, values in scores.items()}
        lines = os.path.join(folder, f"{number}.jsonl")
        with open(lines, "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in records.items())
        self._reader = RecordReader([lines])

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_) -> None:
        self._reader.__exit__()

    def masks(self, image_id: Hashable) -> list[tuple]:
        """Mask, class, number of the source and rank of each mask of an image."""
        rows = []
        for annotation in self._reader.annotations(image_id):
            label = self._class_of[annotation["category_id"]]
            rank = float(relative_ranks(annotation["score"], self._scores[label]))
            rows.append((annotation["segmentation"], label, self.number, rank))
        return rows


def _candidates(sources: Sequence[_Source], image_id: Hashable) -> Candidates:
    rows = [row for source in sources for row in source.masks(image_id)]
    return Candidates.of(*zip(*rows)) if rows else Candidates.of((), (), (), ())


def _build_combiner(
    options: CfgNode, sources: Sequence[_Source], data: _LabelledData
) -> MaskCombiner:
    return MaskCombiner(
        [source.name for source in sources],
        data.classes,
        iou_threshold=options.IOU_THRESHOLD,
        vote=options.MASK == "vote",
        calibration=read_calibration(options.CALIBRATION) if options.CALIBRATION else None,
        min_score=options.MIN_SCORE,
        mine_wholes=options.MINE_WHOLES,
        containment=options.CONTAINMENT,
    )


class _Truth:
    """True masks of images and classes of the dataset, by image.

    Args:
        content: COCO dataset.
        path: the file that it was read from.
        data: the dataset.

    Attributes:
        images: ids of those whose true masks are known.
    """

    def __init__(self, content: Mapping[str, Any], path: str, data: _LabelledData):
        self.images = {image["id"] for image in content["images"]} & set(data.images)
        self._of_image = defaultdict(list)
        for truth in ground_truths_of(content, path):
            if truth["image_id"] in self.images and truth["category_id"] in data.class_of:
                data.check_size(path, truth)
                self._of_image[truth["image_id"]].append(truth)
        self._class_of = data.class_of

    def are_right(self, image_id: Hashable, masks: Sequence, class_ids: Sequence) -> np.ndarray:
        """See :func:`wsis_d2.labeling.are_right`."""
        truths = self._of_image[image_id]
        true_ids = [self._class_of[truth["category_id"]] for truth in truths]
        return are_right(masks, class_ids, [t["segmentation"] for t in truths], true_ids)


def _calibrate(
    combiner: MaskCombiner, sources: Sequence[_Source], data: _LabelledData, path: str
) -> tuple[MaskCombiner, set[Hashable]]:
    """The combiner with a calibration fitted to true masks, and the images that these are of."""
    content = read_coco_json(path)
    data.check_categories(path, content["annotations"], content)
    truth = _Truth(content, path, data)
    columns: list[tuple] = []
    for image_id in sorted(truth.images, key=str):
        candidates = _candidates(sources, image_id)
        if len(candidates):
            columns.append(
                (
                    combiner.features(candidates, class_overlap(candidates)),
                    truth.are_right(image_id, candidates.masks, candidates.class_ids),
                    [combiner.sources[i] for i in candidates.sources],
                    [data.classes[i] for i in candidates.class_ids],
                )
            )
    if not columns:
        raise UserError(
            f"no mask is of an image in AGREEMENT.TRUE_MASKS '{path}': name true masks of some "
            f"images of dataset '{data.name}'"
        )
    calibration = fit_calibration(*(np.concatenate(column) for column in zip(*columns)))
    logger.info(f"Scores were fitted to the true masks of {len(truth.images)} images: {path}")
    return replace(combiner, calibration=calibration), truth.images


@dataclass(frozen=True)
class _Labeller:
    """Combines, and completes where there is a student, image by image."""

    combiner: MaskCombiner
    sources: Sequence[_Source]
    student: _Source | None
    data: _LabelledData

    def label(self, image_id: Hashable) -> list[CombinedMask]:
        combined = self.combiner.combine(_candidates(self.sources, image_id))
        if self.student is None:
            return combined
        labels = self.data.images[image_id]["image_labels"]
        return self.combiner.complete(combined, _candidates([self.student], image_id), labels)


class _ReliabilityCheck:
    """Collects scores and whether their masks are right.

    Args:
        data: the dataset.
        fitted: images that the scores were fitted to: they say nothing.
    """

    def __init__(self, data: _LabelledData, fitted: set[Hashable]):
        path = ground_truth_json(data.name)
        self._truth = _Truth(read_coco_json(path), path, data) if path else None
        self._images = self._truth.images - fitted if self._truth else set()
        self._scores: list[float] = []
        self._right: list[bool] = []

    def add(self, image_id: Hashable, combined: Sequence[CombinedMask]) -> None:
        if image_id in self._images and combined:
            masks, class_ids = [c.mask for c in combined], [c.class_id for c in combined]
            self._scores += [c.score for c in combined]
            self._right += self._truth.are_right(image_id, masks, class_ids).tolist()

    def metrics(self) -> dict:
        if not self._scores:
            return {}
        curve = reliability_curve(self._scores, self._right)
        logger.info(
            f"Scores of {len(self._scores)} masks: expected calibration error {curve['ECE']:.1f} %"
        )
        return {"calibration": curve}


def _with_given(
    combined: list[CombinedMask], labels: Sequence[StrongerLabel], size: tuple[int, int]
) -> list[CombinedMask | GivenMask]:
    if not labels:
        return combined
    columns = zip(*((c.mask, c.class_id, c.score) for c in combined)) if combined else [()] * 3
    kept, given = apply_stronger_labels(*columns, labels, size)
    return sorted([*(combined[i] for i in kept), *given], key=lambda mask: -mask.score)


def _annotation(
    combined: CombinedMask | GivenMask, category_ids: Mapping[int, Any]
) -> dict[str, Any]:
    annotation = {
        "category_id": category_ids[combined.class_id],
        "segmentation": combined.mask,
        "bbox": mask_box(combined.mask),
        "area": mask_area(combined.mask),
        "iscrowd": 0,
        "score": round(combined.score, 6),
    }
    if isinstance(combined, GivenMask):
        annotation["given"] = combined.given
    return annotation


def _info(cfg: CfgNode, dataset_name: str, combiner: MaskCombiner) -> dict:
    """The ``info`` block: how the labels were made. No dates, paths or order of the files."""
    options = cfg.AGREEMENT
    paths = ("LABELS", "STUDENT", "CALIBRATION", "TRUE_MASKS")
    info = {
        "description": f"Pseudo labels of {dataset_name}, combined from several sources",
        "generator": GENERATOR,
        "version": f"wsis_d2 {__version__}",
        "sources": sorted(
            [name, file_sha256(path)] for name, path in zip(combiner.sources, options.LABELS)
        ),
        "config": {key: value for key, value in options.items() if key not in paths},
    }
    if options.STUDENT:
        info["student_sha256"] = file_sha256(options.STUDENT)
    if cfg.PSEUDO_LABELS.STRONGER_LABELS:
        info["stronger_labels_sha256"] = file_sha256(cfg.PSEUDO_LABELS.STRONGER_LABELS)
    if combiner.calibration is not None:
        info["calibration"] = combiner.calibration.to_json()
    return info
