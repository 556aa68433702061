"""What is measured: one :class:`Benchmark` per stage of the methods, built when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ..data.image_files import IMAGE_EXTENSIONS
from ..engine import load_config
from ..errors import UserError
from ..images import read_image
from .scenes import Scene, draw_image

BENCHMARK_REGISTRY = Registry("BENCHMARK")
BENCHMARK_REGISTRY.__doc__ = """
Stages by their names in ``tools/benchmark.py --only``: functions of a :class:`Workload` that give a
:class:`Benchmark`.
"""

_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "voc"

#: (H, W) of most images of PASCAL VOC.
IMAGE_SIZE = (375, 500)
_QUICK_IMAGE_SIZE = (72, 96)
#: Settings of ``--quick``: everything runs, and no figure means anything.
_QUICK_OPTIONS = (
    *("SOLVER.IMS_PER_BATCH", "2", "INPUT.IMAGE_LEVEL.CROP_SIZE", "96"),
    *("INPUT.IMAGE_LEVEL.SQUARE_SIZE", "64", "CAM.SCALES", "(1.0,)"),
    *("MODEL.IRNET.TEST_SIZE", "0", "PROPOSALS.BUILTIN.LONGEST_EDGE", "64"),
)


@dataclass(frozen=True)
class Work:
    """What a run cannot do without.

    Attributes:
        flops: arithmetic operations by their precision; a multiplication and an addition are two.
        bytes: that are read and written at least.
    """

    flops: Mapping[torch.dtype, float]
    bytes: float


@dataclass(frozen=True)
class Benchmark:
    """A stage and its inputs.

    Attributes:
        run: the stage: a function of one input.
        inputs: one per image, or one for all images or an iteration.
        what: size of the inputs, for people.
        work: gives the :class:`Work` of an input; None: no floor is known.
        items: images that one run processes where figures are per image.
        device: where it runs; some stages know the CPU alone.
    """

    run: Callable[[Any], Any]
    inputs: Sequence[Any]
    what: str
    work: Callable[[Any], Work] | None = None
    items: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Workload:
    """What the stages work on.

    Attributes:
        scenes: the images and what is to be found in them.
        device: where the networks are.
        quick: tiny, to see that everything runs.
    """

    scenes: Sequence[Scene]
    device: str = "cpu"
    quick: bool = False

    @property
    def what(self) -> str:
        """Number and size of the images."""
        sizes = {scene.size for scene in self.scenes}
        size = "{1} x {0}".format(*sizes.pop()) if len(sizes) == 1 else "of several sizes"
        return f"{len(self.scenes)} images {size}" if len(self.scenes) > 1 else f"image {size}"

    def config(self, name: str) -> CfgNode:
        """A config of PASCAL VOC, such as "irnet_mobile/classifier.yaml"."""
        options = ["MODEL.DEVICE", self.device, *(_QUICK_OPTIONS if self.quick else ())]
        return load_config(str(_CONFIGS / name), options)


def make_workload(
    images: str = "", device: str = "cpu", quick: bool = False, longest_edge: int = 0
) -> Workload:
    """The workload of photos, or of a synthetic image of VOC's size; always the same.

    Args:
        images: folder of photos; empty: none.
        device: see :class:`Workload`.
        quick: see :class:`Workload`.
        longest_edge: longer side in pixels that the images are resized to; 0: as they are.

    Raises:
        UserError: the folder holds no images, or one that cannot be read.
    """
    if images:
        arrays = [read_image(path) for path in _image_files(images)]
    else:
        size = _QUICK_IMAGE_SIZE if quick else IMAGE_SIZE
        arrays = [draw_image(size, np.random.default_rng(0))]
    if longest_edge:
        arrays = [_resized(image, longest_edge) for image in arrays]
    scenes = [Scene.on(image, np.random.default_rng(i)) for i, image in enumerate(arrays)]
    return Workload(scenes, device, quick)


def _resized(image: np.ndarray, longest_edge: int) -> np.ndarray:
    height, width = (round(n * longest_edge / max(image.shape[:2])) for n in image.shape[:2])
    return cv2.resize(image, (max(width, 1), max(height, 1)), interpolation=cv2.INTER_CUBIC)


def _image_files(folder: str) -> list[Path]:
    try:
        files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
    except OSError as error:
        raise UserError(
            f"--images: '{folder}' cannot be read ({error.strerror}): give a folder of photos"
        ) from error
    if not files:
        raise UserError(f"--images: '{folder}' holds no images: give a folder of photos")
    return files
