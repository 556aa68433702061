"""IRNet's labels, step by step: from an image to masks in a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from ..engine import Trainer
from ..labeling import IRNetCues, detect_instances, optimize_for_inference
from ..labeling.irnet import cam_contrast, cues_to_label_map
from ..labeling.irnet_walk import find_winners, normalized_scores, walk_instance_cams
from ..labeling.walk_settings import walk_settings
from ..layers import (
    PairAffinity,
    boundary_affinity,
    cluster_centroids,
    find_centroids,
    random_walk,
)
from ..structures import encode_masks
from .floors import affinity_work, count_work, traffic, walk_work
from .scenes import Scene
from .stages import BENCHMARK_REGISTRY, Benchmark, Work, Workload

_CONFIG = "irnet_mobile/pseudo_labels.yaml"


@BENCHMARK_REGISTRY.register()
def irnet_network(workload: Workload) -> Benchmark:
    """Boundaries and displacements of an image and its mirror image."""
    torch.manual_seed(0)
    network = optimize_for_inference(Trainer.build_model(workload.config(_CONFIG)).eval())

    @torch.no_grad()
    def run(x: dict) -> list[dict]:
        return network([x])

    inputs = [scene.model_input() for scene in workload.scenes]
    work = partial(count_work, run)
    return Benchmark(run, inputs, workload.what, work, device=workload.device)


@BENCHMARK_REGISTRY.register()
def irnet_centroids(workload: Workload) -> Benchmark:
    """The cluster of every cell."""
    cfg = workload.config(_CONFIG)
    settings = cfg.PSEUDO_LABELS.IRNET

    def run(displacement: Tensor) -> Tensor:
        centroids = find_centroids(displacement, settings.CENTROID_ITERS)
        return cluster_centroids(centroids, displacement, settings.CENTROID_THRESHOLD)

    stride = cfg.MODEL.IRNET.STRIDE
    fields = [scene.displacement(stride).to(workload.device) for scene in workload.scenes]

    def work(displacement: Tensor) -> Work:
        return traffic(displacement, displacement[0].long())

    return Benchmark(run, fields, _cells(fields[0]), work, device=workload.device)


@BENCHMARK_REGISTRY.register()
def irnet_affinity(workload: Workload) -> Benchmark:
    """The affinity of all pairs of cells."""
    cfg = workload.config(_CONFIG)
    radius = cfg.PSEUDO_LABELS.WALK.RADIUS
    stride = cfg.MODEL.IRNET.STRIDE
    boundaries = [scene.boundary(stride).to(workload.device) for scene in workload.scenes]
    return Benchmark(
        lambda boundary: boundary_affinity(boundary, radius),
        boundaries,
        f"{_cells(boundaries[0])}, radius {radius}",
        lambda boundary: affinity_work(*boundary.shape, radius),
        device=workload.device,
    )


@dataclass(frozen=True)
class _Walk:
    """What the walk starts from: (I, h, w) maps, and the affinity."""

    maps: Tensor
    affinity: PairAffinity


@BENCHMARK_REGISTRY.register()
def irnet_walk(workload: Workload) -> Benchmark:
    """The random walk of all instance-wise CAMs."""
    cfg = workload.config(_CONFIG)
    options = walk_settings(cfg)
    radius = options.pop("radius")

    def start(scene: Scene) -> _Walk:
        cues = _cues(cfg, scene, workload.device, num_steps=0)
        return _Walk(cues.instance_scores, boundary_affinity(cues.boundary, radius))

    def run(walk: _Walk) -> Tensor:
        return random_walk(walk.maps, walk.affinity, **options)

    def work(walk: _Walk) -> Work:
        steps, tolerance = options["num_steps"], options["tolerance"]
        return walk_work(*walk.maps.shape, radius, steps, tolerance)

    walks = [start(scene) for scene in workload.scenes]
    numbers = ", ".join(str(len(walk.maps)) for walk in walks)
    what = f"{numbers} maps {_cells(walks[0].maps)}, {options['num_steps']} steps"
    return Benchmark(run, walks, what, work, device=workload.device)


@BENCHMARK_REGISTRY.register()
def irnet_upsampling(workload: Workload) -> Benchmark:
    """Scores of the instances at full size, the highest of each pixel, and the label map."""
    cfg = workload.config(_CONFIG)

    def run(x: tuple[IRNetCues, tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        cues, size = x
        label_map = cues_to_label_map(
            cues, size, cfg.PSEUDO_LABELS.IRNET.SEM_SEG_BG_THRESHOLD, cfg.MODEL.IRNET.STRIDE
        )
        return *_winners(cfg, cues, size), label_map

    def work(x: tuple[IRNetCues, tuple[int, int]]) -> Work:
        return traffic(x[0].instance_scores, *run(x))

    inputs = [(_cues(cfg, s, workload.device), s.size) for s in workload.scenes]
    numbers = ", ".join(str(len(cues.instance_scores)) for cues, _ in inputs)
    what = f"{numbers} maps, {workload.what}"
    return Benchmark(run, inputs, what, work, device=workload.device)


@dataclass(frozen=True)
class _Territories:
    """Which candidate is the highest at each pixel (H, W), how high, and the cues."""

    winners: Tensor
    best: Tensor
    cues: IRNetCues


@BENCHMARK_REGISTRY.register()
def irnet_components(workload: Workload) -> Benchmark:
    """Connected pieces, their masks and their scores."""
    cfg = workload.config(_CONFIG)
    stride, min_area = cfg.MODEL.IRNET.STRIDE, cfg.PSEUDO_LABELS.IRNET.MIN_AREA

    def run(x: _Territories) -> Instances:
        instances = detect_instances(x.winners, x.best, x.cues.instance_class_ids, min_area)
        instances.scores = cam_contrast(
            instances.pred_masks,
            instances.pred_classes,
            x.cues.cam.cpu(),
            x.cues.class_ids.cpu(),
            stride,
        )
        return instances

    def work(x: _Territories) -> Work:
        return traffic(x.winners, x.best, run(x).pred_masks)

    def territories(scene: Scene) -> _Territories:
        cues = _cues(cfg, scene, workload.device)
        return _Territories(*_winners(cfg, cues, scene.size), cues)

    inputs = [territories(scene) for scene in workload.scenes]
    return Benchmark(run, inputs, workload.what, work)


@BENCHMARK_REGISTRY.register()
def irnet_export(workload: Workload) -> Benchmark:
    """The masks as run lengths."""
    masks = [scene.masks for scene in workload.scenes]
    numbers = ", ".join(str(len(m)) for m in masks)
    return Benchmark(encode_masks, masks, f"{numbers} masks, {workload.what}", traffic)


def _cues(cfg: CfgNode, scene: Scene, device: str, **options) -> IRNetCues:
    """What a trained network and the walk say of a scene."""
    stride = cfg.MODEL.IRNET.STRIDE
    return walk_instance_cams(
        scene.cam(stride).to(device),
        scene.labels.to(device),
        scene.boundary(stride).to(device),
        scene.displacement(stride).to(device),
        **{**walk_settings(cfg), **options},
    )


def _winners(cfg: CfgNode, cues: IRNetCues, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    irnet, stride = cfg.PSEUDO_LABELS.IRNET, cfg.MODEL.IRNET.STRIDE
    scores = normalized_scores(cues, irnet.NORMALIZATION, irnet.MIN_AREA, stride=stride, size=size)
    return find_winners(scores, stride, size, irnet.BG_THRESHOLD)


def _cells(maps: Tensor) -> str:
    return f"{maps.shape[-2]} x {maps.shape[-1]} cells"
