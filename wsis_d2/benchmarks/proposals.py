"""Mask proposals, and the choice among them."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..labeling import BestObjectness, LocationCues, PRMScore, Selector
from ..proposals import HED, ContourMaps, photo_proposals
from ..proposals.hierarchical import reduced
from ..structures import MaskProposals, mask_nms
from .floors import count_work, product_work, traffic
from .scenes import NUM_CLASSES, Scene
from .stages import BENCHMARK_REGISTRY, Benchmark, Work, Workload

_CONFIG = "wise_mobile/pseudo_labels.yaml"
_NUM_OBJECTS = 10
_NUM_PROPOSALS = 200


@BENCHMARK_REGISTRY.register()
def proposals_network(workload: Workload) -> Benchmark:
    """HED's contours of the reduced photo."""
    torch.manual_seed(0)
    longest_edge = workload.config(_CONFIG).PROPOSALS.BUILTIN.LONGEST_EDGE
    network = HED().eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def run(pixels: Tensor) -> tuple:
        return network(pixels)

    images = [reduced(scene.image, longest_edge) for scene in workload.scenes]
    pixels = [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in images]
    what = f"{workload.what}, reduced to {longest_edge}"
    return Benchmark(run, pixels, what, partial(count_work, run))


@BENCHMARK_REGISTRY.register()
def proposals_hierarchies(workload: Workload) -> Benchmark:
    """From contours to proposals: regions, candidates, objectness, choice, masks.

    The contours are the image's gradients at several scales.
    """
    options = workload.config(_CONFIG).PROPOSALS.BUILTIN
    settings = {
        "longest_edge": options.LONGEST_EDGE,
        "nms_threshold": options.NMS_THRESHOLD,
        "diversity": options.DIVERSITY,
        "max_proposals": options.MAX_PROPOSALS,
    }

    def run(x: tuple[np.ndarray, ContourMaps]) -> MaskProposals:
        image, maps = x
        return photo_proposals(image, lambda _: maps, **settings)

    inputs = [
        (scene.image, _gradient_contours(reduced(scene.image, options.LONGEST_EDGE)))
        for scene in workload.scenes
    ]
    return Benchmark(run, inputs, f"{workload.what}, reduced to {options.LONGEST_EDGE}")


@BENCHMARK_REGISTRY.register()
def proposals_nms(workload: Workload) -> Benchmark:
    """Suppression among the proposals of an image."""
    threshold = workload.config(_CONFIG).PROPOSALS.BUILTIN.NMS_THRESHOLD

    def run(proposals: MaskProposals) -> np.ndarray:
        return mask_nms(proposals.masks, proposals.objectness, threshold)

    return Benchmark(run, _proposals(workload), f"{_NUM_PROPOSALS} masks, {workload.what}")


@BENCHMARK_REGISTRY.register()
def selection_by_response(workload: Workload) -> Benchmark:
    """PRM's score of all proposals for all objects: three products with the masks."""

    def work(x: tuple[LocationCues, MaskProposals]) -> Work:
        cues, proposals = x
        cells = cues.response_maps[0].numel()
        return product_work(len(cues), cells, len(proposals), count=3)

    return _selection(workload, PRMScore(), work)


@BENCHMARK_REGISTRY.register()
def selection_by_objectness(workload: Workload) -> Benchmark:
    """WISE's choice: the best proposal at each point."""

    def work(x: tuple[LocationCues, MaskProposals]) -> Work:
        cues, proposals = x
        counts = [np.frombuffer(mask["counts"].encode(), np.uint8) for mask in proposals.masks]
        return traffic(cues.points, counts)

    return _selection(workload, BestObjectness(), work)


def _selection(workload: Workload, selector: Selector, work) -> Benchmark:
    side = workload.config(_CONFIG).INPUT.IMAGE_LEVEL.SQUARE_SIZE

    def run(x: tuple[LocationCues, MaskProposals]) -> tuple[np.ndarray, np.ndarray]:
        return selector(*x, {})

    cues = [_cues(scene, side) for scene in workload.scenes]
    what = f"{_NUM_OBJECTS} objects, {_NUM_PROPOSALS} proposals, responses {side} x {side}"
    return Benchmark(run, list(zip(cues, _proposals(workload))), what, work)


def _proposals(workload: Workload) -> list[MaskProposals]:
    return [scene.proposals(_NUM_PROPOSALS) for scene in workload.scenes]


def _cues(scene: Scene, side: int) -> LocationCues:
    """Objects in random places, with noise for responses."""
    generator = torch.Generator().manual_seed(0)
    responses = torch.rand(_NUM_OBJECTS, side, side, generator=generator)
    places = torch.rand(_NUM_OBJECTS, 2, generator=generator)
    return LocationCues(
        class_ids=scene.labels[torch.arange(_NUM_OBJECTS) % len(scene.labels)],
        responses=torch.linspace(10, 1, _NUM_OBJECTS),
        class_scores=torch.linspace(0.9, 0.1, _NUM_OBJECTS),
        points=(places * torch.tensor(scene.size)).long(),
        response_maps=responses / responses.sum((1, 2), keepdim=True),
        class_response_maps=torch.rand(NUM_CLASSES, side // 32, side // 32, generator=generator),
    )


def _gradient_contours(image: np.ndarray) -> ContourMaps:
    """Contours of a photo as HED would give them, of gradients instead of learnt."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sides = np.stack([ndimage.gaussian_gradient_magnitude(gray, 2.0**k) for k in range(5)])
    sides = (sides / np.percentile(sides, 99, axis=(1, 2), keepdims=True)).clip(0, 1)
    rng = np.random.default_rng(0)
    height, width = image.shape[:2]
    features = tuple(
        rng.random((512, -(-height // stride), -(-width // stride)), np.float32)
        for stride in (8, 16)
    )
    return ContourMaps(sides.mean(0), sides, features)
