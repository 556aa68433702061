"""Shapes: the embedded benchmark, small creatures drawn from a seed, in PASCAL VOC's layout.

It is easy enough for a slim network to learn from random weights in minutes and hard in the ways
that matter to weak supervision:

- The class shows strongly in a small part, the *head* (a saturated blob of the class's hue), which
  half of the creatures do not show, and weakly in the body (a pale, noisy version of that hue).
  So a class activation map finds the heads, gives little to the bodies and under-covers.
- Outline, size, brightness and texture say nothing about the class.
- Creatures stand in groups, mostly of one class, that touch and hide parts of each other.
- The background is textured and holds *distractors*, things without class or label.

Hues are in OpenCV's units, 0..179; saturation and value are in [0, 1].
"""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..files import read_json
from ..parallel import available_cpus
from .label_maps import write_label_map

__all__ = ["SHAPES_CLASSES", "make_shapes_image", "write_shapes"]

SHAPES_CLASSES = ("ant", "beetle", "crab", "fish", "snail")

# Raised whenever the same seed gives other pictures: folders of older versions are then rewritten.
_VERSION = 1
_PARAMETERS_FILE = "shapes.json"

# Class hues fill 3/4 of the circle; distractors own the middle of the rest.
_CLASS_HUES = (0.0, 33.0, 66.0, 99.0, 132.0)
_DISTRACTOR_HUE = 156.0
_BODY_HUE_SIGMA = 10.0
_HEAD_HUE_SIGMA = 2.0
_HEAD_PROBABILITY = 0.5

# Probability of 1, 2, ... 8 creatures and of 1, 2, 3 classes in an image.
_COUNT_PROBABILITIES = (0.18, 0.20, 0.18, 0.14, 0.11, 0.08, 0.06, 0.05)
_NUM_CLASSES_PROBABILITIES = (0.50, 0.40, 0.10)
_GROUP_PROBABILITY = 0.65
_SAME_CLASS_IN_GROUP_PROBABILITY = 0.75
# A creature keeps at least this part of itself in sight, or the one that hides it moves.
_MIN_VISIBLE = 0.55
_PLACEMENT_TRIES = 30

# Lengths below are in pixels of an image of this side and scale with the image.
_REFERENCE_SIZE = 128


@dataclass(frozen=True)
class _Creature:
    """Geometry of one creature: an ellipse with a wavy outline, and perhaps a head at its tip."""

    class_id: int
    center: np.ndarray  # (2,) x, y in pixels
    radius: float  # geometric mean of the half axes, in pixels
    aspect: float  # long over short axis, >= 1
    angle: float  # of the long axis, in radians
    wave: np.ndarray  # (K, 2) amplitude and phase of the outline's Fourier terms 2, 3, ...
    head_radius: float  # in pixels; 0: no head in sight
    head_offset: float  # of the head's centre along the long axis, as a fraction of its half

    def depths(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth below the outline of body and of head, each (size, size) float64 in pixels.

        Positive inside. Measured along the ray from the centre, so only near the outline a
        distance.
        """
        y, x = np.mgrid[:size, :size].astype(np.float64)
        dx, dy = x - self.center[0], y - self.center[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        long_half = self.radius * np.sqrt(self.aspect)
        u = (cos * dx + sin * dy) / long_half
        v = (cos * dy - sin * dx) / (self.radius / np.sqrt(self.aspect))
        phase = np.arctan2(v, u)
        outline = 1.0 + sum(
            amplitude * np.cos(k * phase + shift)
            for k, (amplitude, shift) in enumerate(self.wave, start=2)
        )
        distance = np.hypot(dx, dy)
        rho = np.maximum(np.hypot(u, v), 1e-6)
        body = np.where(rho > 1e-6, distance * (outline / rho - 1.0), self.radius)
        tip = self.head_offset * long_half
        head = self.head_radius - np.hypot(dx - cos * tip, dy - sin * tip)
        return body, head if self.head_radius > 0 else np.full_like(body, -np.inf)


def make_shapes_image(
    rng: np.random.Generator,
    image_size: int = _REFERENCE_SIZE,
    max_objects: int = 8,
    distractors: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one image.

    Args:
        rng: the only source of randomness. Background, distractors and objects have streams of
            their own, so that ``distractors=False`` leaves the objects as they are.
        image_size: side S of the square image in pixels; objects scale with it.
        max_objects: at most this many objects, 1 to 8.
        distractors: whether to draw unlabelled things behind the objects.

    Returns:
        image: (S, S, 3) uint8 RGB.
        instance_map: (S, S) uint8, 0 background and i the visible pixels of object i = 1..N, head
            included.
        instance_classes: (N,) int64, the class of object i at i - 1, an index of
            :data:`SHAPES_CLASSES`.
    """
    background_rng, distractor_rng, layout_rng, paint_rng = (
        np.random.default_rng(seed) for seed in rng.integers(2**63, size=4)
    )
    image, brightness = _paint_background(background_rng, image_size)
    if distractors:
        for _ in range(distractor_rng.integers(0, 5)):
            _paint_distractor(distractor_rng, image, brightness)

    creatures, instance_map = _place_creatures(layout_rng, image_size, max_objects)
    for creature in creatures:
        _paint_creature(paint_rng, image, creature, brightness)
    image += background_rng.normal(0.0, 0.012, image.shape)
    classes = np.array([creature.class_id for creature in creatures], dtype=np.int64)
    return np.rint(image.clip(0.0, 1.0) * 255.0).astype(np.uint8), instance_map, classes


# ------------------------------------------------------------------------------------- layout


def _place_creatures(
    rng: np.random.Generator, size: int, max_objects: int
) -> tuple[list[_Creature], np.ndarray]:
    """Creatures from back to front and their visible pixels, (size, size) uint8 ids from 1."""
    weights = np.array(_COUNT_PROBABILITIES[:max_objects])
    count = 1 + rng.choice(len(weights), p=weights / weights.sum())
    num_classes = min(count, 1 + rng.choice(3, p=_NUM_CLASSES_PROBABILITIES))
    classes = rng.permutation(len(SHAPES_CLASSES))[:num_classes]
    in_groups = rng.random() < _GROUP_PROBABILITY

    creatures: list[_Creature] = []
    full_areas: list[int] = []
    instance_map = np.zeros((size, size), np.uint8)
    for index in range(count):
        for _ in range(_PLACEMENT_TRIES):
            # The first creatures make sure that every class of the image occurs.
            class_id = int(classes[index] if index < num_classes else rng.choice(classes))
            neighbor = None
            if in_groups and creatures:
                neighbor = creatures[rng.integers(len(creatures))]
                if index >= num_classes and rng.random() < _SAME_CLASS_IN_GROUP_PROBABILITY:
                    class_id = neighbor.class_id
            creature = _random_creature(rng, class_id, count, size, neighbor)
            mask = np.maximum(*creature.depths(size)) > 0
            candidate = np.where(mask, np.uint8(len(creatures) + 1), instance_map)
            areas = [*full_areas, np.pi * creature.radius**2]
            visible = np.bincount(candidate.ravel(), minlength=len(areas) + 1)[1:]
            if (visible >= _MIN_VISIBLE * np.array(areas)).all():
                creatures.append(creature)
                full_areas.append(int(mask.sum()))
                instance_map = candidate
                break
    return creatures, instance_map


def _random_creature(
    rng: np.random.Generator, class_id: int, count: int, size: int, neighbor: _Creature | None
) -> _Creature:
    """A creature beside its neighbour, touching or overlapping it, or anywhere in the image."""
    # Half width: 19..36 pixels for a creature alone down to 9..17 for one of eight.
    radius = rng.uniform(21.0, 40.0) * count**-0.37 * size / _REFERENCE_SIZE
    if neighbor is None:
        center = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)
    else:
        direction = rng.uniform(0.0, 2.0 * np.pi)
        distance = rng.uniform(0.75, 1.1) * (radius + neighbor.radius)
        center = neighbor.center + distance * np.array([np.cos(direction), np.sin(direction)])
        center = center.clip(0.7 * radius, size - 0.7 * radius)
    has_head = rng.random() < _HEAD_PROBABILITY
    return _Creature(
        class_id=class_id,
        center=center,
        radius=radius,
        aspect=rng.uniform(1.0, 1.9),
        angle=rng.uniform(0.0, 2.0 * np.pi),
        wave=np.stack([rng.uniform(0.0, 0.16, 4) / np.arange(1, 5), rng.uniform(0, 6.3, 4)], 1),
        head_radius=max(0.3 * radius, 3.0) * rng.uniform(0.9, 1.2) if has_head else 0.0,
        head_offset=rng.uniform(0.75, 1.0),
    )


# ------------------------------------------------------------------------------------ drawing


def _noise(rng: np.random.Generator, size: int, cells: int, persistence: float = 0.6) -> np.ndarray:
    """Smooth noise of several octaves, (size, size) of zero mean and unit standard deviation.

    The coarsest octave has ``cells`` cells on a side, each next twice as many; its weight is
    ``persistence`` times the former's.
    """
    total, weight = np.zeros((size, size)), 1.0
    while cells <= size:
        grid = Image.fromarray(rng.normal(size=(cells + 1, cells + 1)).astype(np.float32))
        total += weight * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
        cells, weight = 2 * cells, weight * persistence
    return (total - total.mean()) / (total.std() + 1e-9)


def _hsv_to_rgb(
    hue: np.ndarray | float, saturation: np.ndarray | float, value: np.ndarray
) -> np.ndarray:
    """Hue in OpenCV's units, two fractions, broadcast to (H, W), to (H, W, 3) RGB in [0, 1]."""
    saturation, value = np.clip(saturation, 0.0, 1.0), np.clip(value, 0.0, 1.0)
    channels = []
    for offset in (5.0, 3.0, 1.0):  # red, green, blue: the same trapezoid over hue, shifted
        sextant = (offset + np.asarray(hue) / 30.0) % 6.0
        dip = np.minimum(sextant, 4.0 - sextant).clip(0.0, 1.0)
        channels.append(value * (1.0 - saturation * dip))
    return np.stack(channels, axis=-1)


def _blend(image: np.ndarray, color: np.ndarray, depth: np.ndarray) -> None:
    """Lay ``color`` over ``image`` where ``depth`` > 0, with an outline one pixel soft."""
    alpha = (depth + 0.5).clip(0.0, 1.0)[..., None]
    image += alpha * (color - image)


def _paint_background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, float]:
    """Two pale colours mixed by noise, (size, size, 3) in [0, 1], and its mean value."""
    brightness = rng.uniform(0.3, 0.75)
    mix = 1.0 / (1.0 + np.exp(-2.0 * _noise(rng, size, int(rng.integers(2, 6)))))
    hue = rng.uniform(0.0, 180.0) + 25.0 * _noise(rng, size, 2)
    saturation = rng.uniform(0.0, 0.14, 2)
    value = brightness + rng.uniform(0.03, 0.08) * np.array([-1, 1])
    value = value[0] + (value[1] - value[0]) * mix
    value += rng.uniform(0.015, 0.04) * _noise(rng, size, int(rng.integers(12, 40)), 0.8)
    saturation = saturation[0] + (saturation[1] - saturation[0]) * mix
    return _hsv_to_rgb(hue, saturation, value), brightness


def _contrasting_value(rng: np.random.Generator, brightness: float) -> float:
    """A value that differs from the background's, so that most of an outline can be seen."""
    value = rng.uniform(0.35, 0.95)
    while abs(value - brightness) < 0.12:
        value = rng.uniform(0.35, 0.95)
    return value


def _paint_distractor(rng: np.random.Generator, image: np.ndarray, brightness: float) -> None:
    """A stick, a ring or a blob, grey or of the one hue that no class has."""
    size = image.shape[0]
    scale = size / _REFERENCE_SIZE
    y, x = np.mgrid[:size, :size].astype(np.float64)
    cx, cy = rng.uniform(0, size, 2)
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
    across = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
    kind = rng.integers(3)
    if kind == 0:
        half_length, half_width = rng.uniform(14, 45) * scale, rng.uniform(1.2, 3.0) * scale
        depth = half_width - np.hypot(np.maximum(np.abs(along) - half_length, 0), across)
    elif kind == 1:
        radius, half_width = rng.uniform(7, 16) * scale, rng.uniform(1.2, 3.0) * scale
        depth = half_width - np.abs(np.hypot(along, across) - radius)
    else:
        a, b = rng.uniform(4, 14, 2) * scale
        depth = min(a, b) * (1.0 - np.hypot(along / a, across / b))
    saturation = rng.choice([rng.uniform(0.0, 0.1), rng.uniform(0.3, 0.9)])
    value = _contrasting_value(rng, brightness) * (1.0 + 0.1 * _noise(rng, size, 8))
    hue = rng.normal(_DISTRACTOR_HUE, _HEAD_HUE_SIGMA)
    _blend(image, _hsv_to_rgb(hue, saturation, value), depth)


def _body_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Relative change of the body's value, (size, size): noise with stripes, spots or neither."""
    texture = 0.06 * _noise(rng, size, int(rng.integers(6, 20)), 0.8)
    kind = rng.integers(3)
    if kind == 0:
        y, x = np.mgrid[:size, :size] * (_REFERENCE_SIZE / size)
        angle, period = rng.uniform(0, np.pi), rng.uniform(5.0, 10.0)
        stripes = np.sin(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y))
        texture += 0.08 * stripes
    elif kind == 1:
        texture -= 0.18 * (_noise(rng, size, int(rng.integers(20, 32)), 0.3) > 1.0)
    return texture


def _paint_creature(
    rng: np.random.Generator, image: np.ndarray, creature: _Creature, brightness: float
) -> None:
    size = image.shape[0]
    body_depth, head_depth = creature.depths(size)
    depth = np.maximum(body_depth, head_depth)

    # Light from one side, falling off towards the rim, and a thin dark rim: what parts two
    # touching creatures of one class.
    y, x = np.mgrid[:size, :size]
    direction = rng.uniform(0, 2 * np.pi)
    dx, dy = (x - creature.center[0]) / creature.radius, (y - creature.center[1]) / creature.radius
    light = 1.0 + 0.08 * (np.cos(direction) * dx + np.sin(direction) * dy).clip(-1.5, 1.5)
    light *= 1.0 - 0.18 * np.exp(-depth.clip(0) / (0.2 * creature.radius))
    light *= 1.0 - 0.35 * np.exp(-((depth.clip(0) / (1.4 * size / _REFERENCE_SIZE)) ** 2))

    class_hue = _CLASS_HUES[creature.class_id]
    body_hue = class_hue + _BODY_HUE_SIGMA * np.clip(rng.normal(), -2.0, 2.0)
    body = _hsv_to_rgb(
        body_hue + 3.0 * _noise(rng, size, 16),
        rng.uniform(0.25, 0.42),
        _contrasting_value(rng, brightness) * light * (1.0 + _body_texture(rng, size)),
    )
    _blend(image, body, depth)
    head = _hsv_to_rgb(
        rng.normal(class_hue, _HEAD_HUE_SIGMA),
        rng.uniform(0.85, 1.0),
        rng.uniform(0.75, 0.95) * light,
    )
    _blend(image, head, head_depth)


# ------------------------------------------------------------------------------------ writing


def write_shapes(
    output: str | os.PathLike,
    num_train: int,
    num_val: int,
    seed: int,
    image_size: int = _REFERENCE_SIZE,
    num_workers: int | None = None,
) -> bool:
    """Write the benchmark as a PASCAL VOC devkit, all or nothing.

    Every image has a random stream of its own, seeded by (seed, split, index): the bytes depend
    neither on the number of processes nor, for one image, on how many others there are.

    Args:
        output: folder to make. A folder with the same parameters is kept as it is, Shapes with
            other parameters is replaced once the new files are complete.
        num_train: images ``train_000001``, ... of the split "train", at least 1.
        num_val: images ``val_000001``, ... of the split "val".
        seed: non-negative.
        image_size: side in pixels, at least 32.
        num_workers: processes; None: one per available CPU.

    Returns:
        Whether anything was written (False: it was there already).

    Raises:
        UserError: a parameter is out of range, ``output`` holds something else than Shapes, or
            it cannot be written.
    """
    if num_train < 1 or num_val < 0 or seed < 0 or image_size < 32:
        raise UserError(
            "Shapes needs at least 1 training image, no negative number of validation images, "
            "a seed of 0 or more and images of at least 32 pixels; got "
            f"{num_train}, {num_val}, {seed} and {image_size}"
        )
    parameters = {
        "dataset": "Shapes",
        "version": _VERSION,
        "classes": list(SHAPES_CLASSES),
        "num_train": num_train,
        "num_val": num_val,
        "seed": seed,
        "image_size": image_size,
    }
    output = Path(output).resolve()
    splits = {"train": num_train, "val": num_val}
    try:
        if _read_parameters(output) == parameters:
            return False
        with _replaced_folder(output) as folder:
            _write_devkit(folder, splits, seed, image_size, num_workers)
            text = json.dumps(parameters, indent=2) + "\n"
            (folder / _PARAMETERS_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write Shapes to '{output}' ({error}); choose another output folder or "
            "make this one writable"
        ) from error
    return True


def _read_parameters(output: Path) -> dict | None:
    """Parameters of the Shapes in ``output``; None where it is absent or empty."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    parameters = read_json(output / _PARAMETERS_FILE)
    if parameters.get("dataset") == "Shapes":
        return parameters
    raise UserError(
        f"'{output}' exists and is not a Shapes dataset (no valid {_PARAMETERS_FILE} in it), so it "
        "is left alone; choose another output folder"
    )


@contextmanager
def _replaced_folder(output: Path) -> Iterator[Path]:
    """A new folder beside ``output`` that takes its place at the end, or leaves no trace."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.{os.getpid()}.new")
    folder.mkdir()
    try:
        yield folder
        if output.exists():
            old = output.with_name(f".{output.name}.{os.getpid()}.old")
            os.replace(output, old)
            os.replace(folder, output)
            shutil.rmtree(old)
        else:
            os.replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_devkit(
    root: Path, splits: dict[str, int], seed: int, image_size: int, num_workers: int | None
) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationObject", "SegmentationClass"):
        (root / name).mkdir()
    tasks = [(split, i) for split, count in splits.items() for i in range(1, count + 1)]
    names = {split: [_image_name(*task) for task in tasks if task[0] == split] for split in splits}
    names["trainval"] = sum(names.values(), [])
    for task in ("Segmentation", "Main"):
        folder = root / "ImageSets" / task
        folder.mkdir(parents=True)
        for split, lines in names.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in lines))

    write = partial(_write_image, root, seed, image_size)
    bar = partial(tqdm, total=len(tasks), desc="Shapes", unit="image", disable=None)
    num_workers = min(num_workers or available_cpus(), len(tasks))
    if num_workers == 1:
        for _ in bar(map(write, tasks)):
            pass
    else:
        with ProcessPoolExecutor(num_workers) as pool:
            for _ in bar(pool.map(write, tasks, chunksize=8)):
                pass


def _image_name(split: str, index: int) -> str:
    return f"{split}_{index:06d}"


def _write_image(root: Path, seed: int, image_size: int, task: tuple[str, int]) -> None:
    split, index = task
    rng = np.random.default_rng([seed, ("train", "val").index(split), index])
    image, instance_map, classes = make_shapes_image(rng, image_size)
    name = _image_name(split, index)
    Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    write_label_map(root / "SegmentationObject" / f"{name}.png", instance_map)
    class_map = np.append(0, classes + 1).astype(np.uint8)[instance_map]
    write_label_map(root / "SegmentationClass" / f"{name}.png", class_map)
    annotation = _voc_annotation(f"{name}.jpg", instance_map, classes)
    annotation.write(root / "Annotations" / f"{name}.xml", encoding="utf-8")


def _voc_annotation(
    file_name: str, instance_map: np.ndarray, classes: np.ndarray
) -> ET.ElementTree:
    """The VOC annotation, objects in the order of their ids, boxes 1-based with both ends in."""
    height, width = instance_map.shape
    root = ET.Element("annotation")
    size = {"width": width, "height": height, "depth": 3}
    _add_fields(root, {"folder": "Shapes", "filename": file_name, "size": size, "segmented": 1})
    for instance_id, class_id in enumerate(classes, start=1):
        ys, xs = np.nonzero(instance_map == instance_id)
        left, top, right, bottom = xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1
        at_border = left == 1 or top == 1 or right == width or bottom == height
        fields = {
            "name": SHAPES_CLASSES[class_id],
            "pose": "Unspecified",
            "truncated": int(at_border),
            "difficult": 0,
            "bndbox": {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom},
        }
        _add_fields(ET.SubElement(root, "object"), fields)
    tree = ET.ElementTree(root)
    ET.indent(tree)
    return tree


def _add_fields(parent: ET.Element, fields: dict) -> None:
    for key, value in fields.items():
        child = ET.SubElement(parent, key)
        if isinstance(value, dict):
            _add_fields(child, value)
        else:
            child.text = str(value)
