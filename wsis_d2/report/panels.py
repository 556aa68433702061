"""Panels of the report: one image at one step of a method, with its caption."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor

from ..data import ground_truth_json, read_label_map, semantic_truth
from ..evaluation import load_coco_ground_truths
from ..files import label_file
from ..labeling.irnet_walk import IRNetCues, normalized_scores
from ..layers import UNKNOWN
from ..layers.affinity import feature_affinity
from ..structures import box_masks, decode_mask
from ..visualization import (
    displacement_maximum,
    draw_boundary,
    draw_clusters,
    draw_displacement,
    draw_features,
    draw_heatmap,
    draw_instance_scores,
    draw_instances,
    draw_label_map,
    draw_peak_responses,
    draw_peaks,
    panel_scale,
    resize_image,
)
from .page import ReportPanel

#: Detections below this score are left out of the pictures.
MIN_SHOWN_SCORE = 0.5


@dataclass(frozen=True)
class Example:
    """An image of the gallery and what became of it.

    Attributes:
        record: its dataset dict.
        image: (H, W, 3) uint8 RGB.
        classes: names of all classes.
        prediction: output of the second stage.
        truth: what :func:`load_true_masks` or :func:`load_true_label_maps` gives for it.
        labels: output of the label generator; None for a held-out image.
        cfg: config of the label generator; likewise.
        image_root: folder that the file names of label files are relative to; likewise.
    """

    record: Mapping[str, Any]
    image: np.ndarray
    classes: Sequence[str]
    prediction: Mapping[str, Any]
    truth: Any = None
    labels: Mapping[str, Any] | None = None
    cfg: CfgNode | None = None
    image_root: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.record["file_name"]).name

    @property
    def scale(self) -> float:
        """Of all drawings of the image."""
        return panel_scale(*self.image.shape[:2])

    @property
    def cues(self) -> Any:
        """The label generator's cues."""
        return self.labels["cues"]


def _count(number: int, thing: str) -> str:
    ending = "es" if thing.endswith("x") else "s"
    return f"{number} {thing}{ending * (number != 1)}"


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def picture(x: Example) -> ReportPanel:
    """The image and, where it was trained on, its labels."""
    names = ", ".join(x.classes[c] for c in x.record.get("image_labels", ())) if x.labels else ""
    return ReportPanel(names, resize_image(x.image, x.scale))


# Peaks: WISE and PRM.


def class_response(x: Example) -> ReportPanel:
    """Strongest class response map."""
    maps = x.cues.class_response_maps[x.record["image_labels"]]
    heat = _array(maps.amax(0).clamp(min=0))
    return ReportPanel(f"maximum {heat.max():.1f}", draw_heatmap(x.image, heat, scale=x.scale))


def peaks(x: Example) -> ReportPanel:
    """Peaks of the class response maps."""
    return _points(x, "peak")


def points(x: Example) -> ReportPanel:
    """Points of any localiser."""
    return _points(x, "point")


def _points(x: Example, thing: str) -> ReportPanel:
    drawn = draw_peaks(
        x.image,
        _array(x.cues.points),
        x.cues.class_ids.tolist(),
        class_names=x.classes,
        color_ids=range(len(x.cues)),
        scale=x.scale,
    )
    return ReportPanel(_count(len(x.cues), thing), drawn)


def peak_responses(x: Example) -> ReportPanel:
    """Peak response maps."""
    drawn = draw_peak_responses(x.image, _array(x.cues.response_maps), scale=x.scale)
    return ReportPanel(_count(len(x.cues), "map"), drawn)


def located_boxes(x: Example) -> ReportPanel:
    """Boxes of the label generator, those without a label too."""
    boxes = x.labels["located_boxes"]
    unlabelled = len(boxes) - int(boxes.is_labelled.sum())
    caption = _count(len(boxes) - unlabelled, "box")
    if unlabelled:
        caption += f", {unlabelled} of classes without a label"
    return ReportPanel(caption, _draw_instances(x, boxes))


def density(x: Example) -> ReportPanel:
    """Density of the labelled classes, and how many objects of each it makes."""
    labels = x.record["image_labels"]
    maps = x.cues.density_maps[labels]
    counts = ", ".join(f"{m.sum():.1f} {x.classes[c]}" for c, m in zip(labels, maps))
    return ReportPanel(counts, draw_heatmap(x.image, _array(maps.sum(0)), scale=x.scale))


def pseudo_masks(x: Example, color_ids: Sequence[int] | None = None) -> ReportPanel:
    """Instances of the label generator."""
    instances = x.labels["instances"]
    return ReportPanel(_count(len(instances), "mask"), _draw_instances(x, instances, color_ids))


def _draw_instances(
    x: Example, instances: Instances, color_ids: Sequence[int] | None = None
) -> np.ndarray:
    if instances.has("pred_masks"):
        masks = instances.pred_masks.numpy()
    else:  # a box detector's
        masks = box_masks(instances.pred_boxes.tensor.numpy(), instances.image_size)
    return draw_instances(
        x.image,
        masks,
        instances.pred_classes.tolist(),
        instances.scores.tolist(),
        x.classes,
        color_ids=color_ids,
        scale=x.scale,
    )


# CAMs and seeds: IRNet and AffinityNet.


def cam(x: Example) -> ReportPanel:
    """Strongest class activation map."""
    heat = _array(x.cues.cam.amax(0))
    return ReportPanel("", draw_heatmap(x.image, heat, maximum=1.0, scale=x.scale))


def seeds(x: Example) -> ReportPanel:
    """Seeds in ``SEEDS.PATH``."""
    path = label_file(x.cfg.SEEDS.PATH, x.record["file_name"], x.image_root, ".png")
    if not os.path.isfile(path):
        return ReportPanel("not in SEEDS.PATH", None)
    seeds = read_label_map(path)
    return ReportPanel(f"{100 * (seeds == UNKNOWN).mean():.0f} % unknown", _draw_labels(x, seeds))


def _draw_labels(x: Example, labels: np.ndarray | Tensor) -> np.ndarray:
    labels = _array(torch.as_tensor(labels))
    return draw_label_map(x.image, labels, x.classes, scale=x.scale)


def semantic_labels(x: Example) -> ReportPanel:
    """Label map of the label generator."""
    return ReportPanel("", _draw_labels(x, x.labels["sem_seg_labels"]))


# Relations: IRNet.

NOT_USED = ReportPanel("not used", None)


def boundary(x: Example) -> ReportPanel:
    """Class boundary map."""
    if x.cues.boundary is None:
        return NOT_USED
    return ReportPanel("", draw_boundary(x.image, _array(x.cues.boundary), scale=x.scale))


def displacement(x: Example) -> ReportPanel:
    """Displacement field."""
    if x.cues.displacement is None:
        return NOT_USED
    field = _array(x.cues.displacement)
    longest = displacement_maximum(field)
    drawn = draw_displacement(x.image, field, maximum=longest, scale=x.scale)
    return ReportPanel(f"rim of the wheel: {longest:.1f} cells", drawn)


def clusters(x: Example) -> ReportPanel:
    """Clusters of pixels and the centroids that their paths end at."""
    if x.cues.centroids is None:
        return NOT_USED
    clusters = _array(x.cues.clusters)
    drawn = draw_clusters(x.image, clusters, _array(x.cues.centroids), scale=x.scale)
    return ReportPanel(_count(int(clusters.max()) + 1, "cluster"), drawn)


def instance_cams(x: Example) -> ReportPanel:
    """Instance-wise CAMs, each in the color of its cluster."""
    drawn = draw_instance_scores(
        x.image,
        _array(x.cues.instance_cams),
        color_ids=_cluster_of_candidates(x.cues).tolist(),
        maximum=1.0,
        scale=x.scale,
    )
    return ReportPanel(_count(len(x.cues.instance_cams), "candidate"), drawn)


def instance_walk(x: Example) -> ReportPanel:
    """Scores of the instances after the random walk, normalised as for the labels."""
    settings = x.cfg.PSEUDO_LABELS.IRNET
    scores = normalized_scores(
        x.cues,
        settings.NORMALIZATION,
        settings.MIN_AREA,
        stride=x.cfg.MODEL.IRNET.STRIDE,
        size=tuple(x.image.shape[:2]),
    )
    drawn = draw_instance_scores(
        x.image,
        _array(scores),
        color_ids=_cluster_of_candidates(x.cues).tolist(),
        maximum=1.0,
        threshold=settings.BG_THRESHOLD,
        scale=x.scale,
    )
    return ReportPanel(f"outlined above {settings.BG_THRESHOLD:g}", drawn)


def irnet_masks(x: Example) -> ReportPanel:
    """Instances of the label generator, each in the color of its cluster."""
    return pseudo_masks(x, _cluster_of_masks(x.labels["instances"], x.cues).tolist())


def _cluster_of_candidates(cues: IRNetCues) -> Tensor:
    """(I,) number of the cluster that each candidate lies in."""
    clusters = cues.clusters.to(cues.instance_cams.device)
    return clusters.flatten()[cues.instance_cams.flatten(1).argmax(1)]


def _cluster_of_masks(instances: Instances, cues: IRNetCues) -> Tensor:
    """(N,) the cluster that each mask comes from: an object has one color in all columns."""
    if not len(instances):
        return torch.zeros(0, dtype=torch.int64)
    masks = instances.pred_masks.float()[None].to(cues.instance_scores.device)
    masks = F.interpolate(masks, cues.instance_scores.shape[1:], mode="area")[0]
    evidence = torch.einsum("nhw,ihw->ni", masks, cues.instance_scores).cpu()
    same_class = instances.pred_classes[:, None] == cues.instance_class_ids.cpu()[None]
    return _cluster_of_candidates(cues).cpu()[evidence.masked_fill(~same_class, -1).argmax(1)]


# Semantic affinities: AffinityNet.


def affinity_features(x: Example) -> ReportPanel:
    """Principal components of the affinity features."""
    features = _array(x.cues.features)
    return ReportPanel("", draw_features(x.image, features, scale=x.scale))


def semantic_boundary(x: Example) -> ReportPanel:
    """1 minus the mean affinity to the eight neighbors."""
    features = x.cues.features
    degrees = feature_affinity(features, 2).degrees() - 1
    neighbors = feature_affinity(torch.zeros_like(features), 2).degrees() - 1
    boundary = _array((1 - degrees / neighbors).clamp(min=0))
    highest = float(boundary.max())
    drawn = draw_boundary(x.image, boundary, maximum=max(highest, 1e-20), scale=x.scale)
    return ReportPanel(f"highest: {highest:.2f}", drawn)


def semantic_walk(x: Example) -> ReportPanel:
    """Share of each class in the scores after the random walk."""
    scores = x.cues.scores_after
    shares = _array(scores / scores.sum(0, keepdim=True).clamp(min=1e-20))
    drawn = draw_instance_scores(
        x.image, shares[1:], color_ids=x.cues.class_ids.tolist(), maximum=1.0, scale=x.scale
    )
    return ReportPanel("", drawn)


def labels_before_crf(x: Example) -> ReportPanel:
    """Label map of the random walk alone."""
    return ReportPanel("", _draw_labels(x, x.cues.sem_seg_before_crf))


# The second stage.


def detections(x: Example) -> ReportPanel:
    """Instances of the second stage."""
    instances = x.prediction["instances"].to("cpu")
    instances = instances[instances.scores >= MIN_SHOWN_SCORE]
    thing = "mask" if instances.has("pred_masks") else "box"
    caption = f"{_count(len(instances), thing)} of score ≥ {MIN_SHOWN_SCORE}"
    return ReportPanel(caption, _draw_instances(x, instances))


def true_masks(x: Example) -> ReportPanel:
    """True instances."""
    if not x.truth:
        return ReportPanel("no true masks known", None)
    masks, class_ids = zip(*x.truth)
    drawn = draw_instances(
        x.image, np.stack(masks), class_ids, class_names=x.classes, scale=x.scale
    )
    return ReportPanel(_count(len(masks), "object"), drawn)


def load_true_masks(dataset_name: str) -> Callable[[Mapping[str, Any]], list]:
    """From a dataset dict to its (mask, class id) pairs, [] where none is known."""
    ids = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
    path = ground_truth_json(dataset_name)
    truths: dict[int, list[dict]] = {}
    for truth in load_coco_ground_truths(path) if path else ():
        truths.setdefault(truth["image_id"], []).append(truth)

    def load(record: Mapping[str, Any]) -> list[tuple[np.ndarray, int]]:
        return [
            (decode_mask(t["segmentation"]), ids[t["category_id"]])
            for t in truths.get(record["image_id"], ())
        ]

    return load


def semantic_prediction(x: Example) -> ReportPanel:
    """Label map of the second stage."""
    return ReportPanel("", _draw_labels(x, x.prediction["sem_seg"].argmax(0)))


def true_label_map(x: Example) -> ReportPanel:
    """True label map."""
    if x.truth is None:
        return ReportPanel("no true labels known", None)
    return ReportPanel("", _draw_labels(x, x.truth))


def load_true_label_maps(dataset_name: str) -> Callable[[Mapping[str, Any]], np.ndarray | None]:
    """From a dataset dict to its (H, W) uint8 label map, None where none is known."""
    if MetadataCatalog.get(dataset_name).get("evaluator_type") == "sem_seg":
        return lambda record: read_label_map(record["sem_seg_file_name"])
    return semantic_truth(dataset_name) or (lambda record: None)
