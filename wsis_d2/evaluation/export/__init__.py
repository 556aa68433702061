"""Pseudo labels in the formats of other tools."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import numpy as np

from ...data.image_files import check_images_exist
from ...errors import UserError
from ...files import new_folder
from .base import LOCAL_FILES, ExportFormat
from .coco import CocoPolygons, FiftyOne
from .label_studio import LabelStudio, encode_brush
from .labels import LabelImage, LabelSet, Selection, read_labels
from .voc import VocDevkit
from .yolo import YoloSegmentation

__all__ = ["EXPORT_FORMATS", "LOCAL_FILES", "Selection", "encode_brush", "export_labels"]

EXPORT_FORMATS: dict[str, type[ExportFormat]] = {
    "coco-polygons": CocoPolygons,
    "yolo-seg": YoloSegmentation,
    "voc": VocDevkit,
    "label-studio": LabelStudio,
    "fiftyone": FiftyOne,
}


def export_labels(
    json_file: str | os.PathLike,
    export_format: str,
    output: str | os.PathLike,
    *,
    image_root: str = "",
    link_images: bool = False,
    selection: Selection | None = None,
    val: str = "",
    image_url: str = LOCAL_FILES,
) -> str:
    """Write pseudo labels as another tool reads them.

    Args:
        json_file: COCO dataset file, such as ``tools/make_pseudo_labels.py`` writes.
        export_format: one of :data:`EXPORT_FORMATS`.
        output: folder to write; it is there whole or not at all.
        image_root: folder of the images, which are copied into the export; empty: labels alone.
        link_images: make symbolic links instead of copies.
        selection: what is exported; None: all masks.
        val: which images are the split "val": a share such as "0.2", or a text file of their names.
        image_url: what precedes the file names in the images' addresses, for "label-studio".

    Returns:
        What was written and what was lost, in lines for people.

    Raises:
        UserError: ``output`` is there already, an image is absent, two images would have the same
            name there; see :func:`wsis_d2.evaluation.export.labels.read_labels` for the labels.
    """
    if export_format not in EXPORT_FORMATS:
        raise UserError(
            f"the format is '{export_format}': choose one of {', '.join(EXPORT_FORMATS)}"
        )
    selection = selection or Selection()
    labels = read_labels(json_file, selection, val)
    exporter = EXPORT_FORMATS[export_format](image_url)
    targets = _targets(exporter, labels.images)
    sources = [os.path.join(image_root, image.file_name) for image in labels.images]
    if image_root:
        check_images_exist(sources, os.fspath(json_file))
    with new_folder(output) as folder:
        exporter.write(labels, folder)
        if image_root:
            _place_images(sources, [os.path.join(folder, name) for name in targets], link_images)
    return _summary(labels, exporter, os.fspath(output), selection)


def _targets(exporter: ExportFormat, images: Sequence[LabelImage]) -> list[str]:
    """Where the images lie in the export; names must differ by more than their ending, as most
    formats name the labels of an image like it."""
    by_stem: dict[str, LabelImage] = {}
    targets = []
    for image in images:
        target = exporter.image_path(image)
        other = by_stem.setdefault(os.path.splitext(target)[0].lower(), image)
        if other is not image:
            raise UserError(
                f"images '{other.file_name}' and '{image.file_name}' would have the same name in "
                "the export: rename one of them"
            )
        targets.append(target)
    return targets


def _place_images(sources: Sequence[str], targets: Sequence[str], link: bool) -> None:
    for source, target in zip(sources, targets):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if link:
            os.symlink(os.path.abspath(source), target)
        else:
            shutil.copyfile(source, target)


def _summary(labels: LabelSet, exporter: ExportFormat, output: str, selection: Selection) -> str:
    masks = sum(len(image.objects) for image in labels.images)
    splits = ", ".join(f"{name} {len(images)}" for name, images in labels.splits.items())
    lines = [f"{masks} masks of {len(labels.images)} images ({splits}) are in '{output}'"]
    left_out = [*labels.left_out.items(), *exporter.left_out.items()]
    lines += [f"left out: {number} {what}" for what, number in left_out]
    if labels.scores and min(labels.scores) < selection.min_score:
        low, middle, high = np.quantile(labels.scores, [0, 0.5, 1])
        lines.append(f"all scores: {low:.3g} to {high:.3g}, half of them below {middle:.3g}")
    if labels.filled_holes:
        lines.append(f"filled: {labels.filled_holes} holes of at most {selection.max_hole} pixels")
    lines += [f"{number} of {masks} masks {what}" for what, number in exporter.losses.items()]
    return "\n".join(lines)
