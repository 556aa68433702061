"""Evaluation of masks, and their export."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from detectron2.data import MetadataCatalog

from ..evaluation import PseudoLabelWriter, evaluate_coco, evaluate_instance_masks
from ..structures import encode_mask, encode_masks, mask_area, mask_box
from .scenes import NUM_CLASSES, Scene
from .stages import BENCHMARK_REGISTRY, Benchmark, Workload

_DATASET = "wsis_d2_benchmark"
_NUM_IMAGES = 100
# Detections are the objects, moved by these pixels.
_SHIFTS = (1, 4, 8, 16)


@BENCHMARK_REGISTRY.register()
def evaluation_voc(workload: Workload) -> Benchmark:
    """VOC's AP and the average best overlap."""
    images = _images(workload)
    detections = _detections(images)

    def run(x: tuple[list, list]) -> dict:
        return evaluate_instance_masks(*x)

    inputs = [(detections, _annotations(images))]
    return Benchmark(run, inputs, _what(images, detections), items=len(images))


@BENCHMARK_REGISTRY.register()
def evaluation_coco(workload: Workload) -> Benchmark:
    """COCO's AP of masks."""
    images = _images(workload)
    truth = {
        "images": [_image_entry(scene, i) for i, scene in enumerate(images)],
        "annotations": [{"id": n, **a} for n, a in enumerate(_annotations(images), start=1)],
        "categories": [{"id": c, "name": str(c)} for c in range(NUM_CLASSES)],
    }
    detections = _detections(images)

    def run(x: tuple[list, dict]) -> dict:
        return evaluate_coco(*x)

    return Benchmark(run, [(detections, truth)], _what(images, detections), items=len(images))


@BENCHMARK_REGISTRY.register()
def export(workload: Workload) -> Benchmark:
    """Instances of images to a COCO file, by way of a partial file."""
    images = _images(workload)
    MetadataCatalog.get(_DATASET).set(thing_classes=[str(c) for c in range(NUM_CLASSES)])
    records = [
        {**_image_entry(scene, i), "image_id": i, "file_name": f"{i}.jpg"}
        for i, scene in enumerate(images)
    ]
    outputs = [{"instances": scene.instances()} for scene in images]

    def run(x: list[tuple[dict, dict]]) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            writer = PseudoLabelWriter(
                _DATASET,
                os.path.join(folder, "labels.json"),
                {},
                dataset_dicts=[record for record, _ in x],
                partial_dir=os.path.join(folder, "partial"),
            )
            for record, output in x:
                writer.process([record], [output])
            return writer.evaluate()

    return Benchmark(
        run,
        [list(zip(records, outputs))],
        f"{len(images)} images, {sum(len(scene.masks) for scene in images)} masks",
        items=len(images),
    )


def _images(workload: Workload) -> list[Scene]:
    """The scenes, each as often as it takes."""
    number = 4 if workload.quick else _NUM_IMAGES
    return [workload.scenes[i % len(workload.scenes)] for i in range(number)]


def _image_entry(scene: Scene, image_id: int) -> dict:
    return {"id": image_id, "height": scene.size[0], "width": scene.size[1]}


def _annotations(images: list[Scene]) -> list[dict]:
    return [
        {
            "image_id": image_id,
            "category_id": class_id,
            "segmentation": rle,
            "bbox": mask_box(rle),
            "area": mask_area(rle),
            "iscrowd": 0,
        }
        for image_id, scene in enumerate(images)
        for rle, class_id in zip(encode_masks(scene.masks), scene.class_ids.tolist())
    ]


def _detections(images: list[Scene]) -> list[dict]:
    return [
        {
            "image_id": image_id,
            "category_id": class_id,
            "segmentation": encode_mask(np.roll(mask, shift, axis=1)),
            "score": 1 / shift,
        }
        for image_id, scene in enumerate(images)
        for mask, class_id in zip(scene.masks, scene.class_ids.tolist())
        for shift in _SHIFTS
    ]


def _what(images: list[Scene], detections: list[dict]) -> str:
    return f"{len(images)} images, {len(detections)} detections"
