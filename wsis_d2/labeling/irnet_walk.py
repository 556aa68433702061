"""IRNet's instance-wise random walk: CAMs, class boundaries and displacements become instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from torch import Tensor

from ..errors import UserError
from ..layers import boundary_affinity, cluster_centroids, find_centroids, random_walk
from .cam_folder import CAMFolder
from .walk_settings import walk_settings

NORMALIZATIONS = ("image", "instance")
# Upsampled maps are made for at most that many pixels at a time: 16 MB in single precision.
CHUNK_PIXELS = 2**22


@dataclass
class IRNetCues:
    """What the network says about one image, at the stride of its maps, and what follows from it.

    I candidates are the pairs of a class and a cluster where the class has any evidence.

    Attributes:
        cam: (C, h, w) float in [0, 1], class activation maps of the labelled classes.
        class_ids: (C,) int64, their contiguous ids.
        boundary: (h, w) float in [0, 1], class boundary map; None where it is not used.
        displacement: (2, h, w) float, (dy, dx) in cells; None where it is not used.
        centroids: (2, h, w) int, the cell (y, x) at which each pixel's path ends; or None.
        clusters: (h, w) int64, instance that each pixel belongs to, 0 .. n - 1.
        instance_cams: (I, h, w) float in [0, 1], instance-wise CAMs.
        instance_scores: (I, h, w) float, at least 0, their random walk (not normalised).
        instance_class_ids: (I,) int64.
    """

    cam: Tensor
    class_ids: Tensor
    boundary: Tensor | None
    displacement: Tensor | None
    centroids: Tensor | None
    clusters: Tensor
    instance_cams: Tensor
    instance_scores: Tensor
    instance_class_ids: Tensor


def walk_instance_cams(
    cam: Tensor,
    class_ids: Tensor,
    boundary: Tensor | None,
    displacement: Tensor | None,
    *,
    beta: float = 10.0,
    num_steps: int = 256,
    radius: int = 5,
    method: str = "auto",
    tolerance: float = 1e-4,
    centroid_iters: int = 300,
    centroid_threshold: float = 2.5,
) -> IRNetCues:
    """Instance-wise CAMs and their random walk (section 5).

    Args:
        cam: (C, h, w) float in [0, 1].
        class_ids: (C,) int64.
        boundary: (h, w) float in [0, 1]; None: the CAMs stay as they are, without a walk.
        displacement: (2, h, w) float in cells; None: all pixels are of one instance.
        beta, num_steps, radius, method, tolerance: see :func:`wsis_d2.layers.random_walk` and
            :func:`wsis_d2.layers.boundary_affinity`.
        centroid_iters, centroid_threshold: see :func:`wsis_d2.layers.find_centroids` and
            :func:`wsis_d2.layers.cluster_centroids`.
    """
    centroids, clusters = None, torch.zeros(cam.shape[1:], dtype=torch.int64, device=cam.device)
    if displacement is not None:
        centroids = find_centroids(displacement, centroid_iters)
        clusters = cluster_centroids(centroids, displacement, centroid_threshold).to(cam.device)
    instance_cams, class_index = _split_by_cluster(cam, clusters)
    instance_class_ids = class_ids.to(cam.device)[class_index]
    scores = instance_cams
    if boundary is not None and len(scores):
        affinity = boundary_affinity(boundary, radius)
        scores = random_walk(
            scores * (1 - boundary), affinity, beta, num_steps, method, tolerance=tolerance
        )
    return IRNetCues(
        cam,
        class_ids,
        boundary,
        displacement,
        centroids,
        clusters,
        instance_cams,
        scores,
        instance_class_ids,
    )


def _split_by_cluster(cam: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
    """CAMs (C, h, w), each cut into its parts in the clusters (h, w) where it is not 0.

    Only these are made: noise may have thousands of clusters, and a class is absent from most.

    Returns:
        (I, h, w) parts, class by class and cluster by cluster, and (I,) int64, the class of each.
    """
    class_index, y, x = (cam > 0).nonzero(as_tuple=True)
    num_cells = max(1, clusters.numel())  # more than there are clusters, if any
    pairs, part = (class_index * num_cells + clusters[y, x]).unique(return_inverse=True)
    parts = cam.new_zeros((len(pairs), *cam.shape[1:]))
    parts[part, y, x] = cam[class_index, y, x]
    return parts, pairs // num_cells


def instance_scale(
    scores: Tensor,
    instance_cams: Tensor,
    normalization: str,
    top_fraction: float,
    *,
    stride: int,
    size: tuple[int, int],
) -> Tensor:
    """Factors that bring walked scores back to [0, 1] at the image's pixels.

    What counts are the pixels, after upsampling and cropping, as published: a single cell where the
    walk was trapped loses a quarter of its height in the upsampling, and cells may reach beyond the
    image.

    Args:
        scores: (I, h, w) float, result of the walk.
        instance_cams: (I, h, w) float in [0, 1], what the walk started from.
        normalization: "image": all are divided by the one maximum over the image, as published, so
            that a single place where the walk was trapped sets the scale of every instance.
            "instance": each is divided by the least value among its strongest ``top_fraction`` of
            the pixels, and keeps its strength from before the walk, the maximum of its CAM.
        top_fraction: the fraction of the image's pixels.
        stride: pixels per cell.
        size: (H, W) of the image.

    Returns:
        (I, 1, 1) float.
    """
    if normalization == "image":
        return (1 / upsampled_maximum(scores, stride, size).clamp(min=1e-20)).expand(
            len(scores), 1, 1
        )
    rank = max(1, round(top_fraction * size[0] * size[1]))
    strong = [
        maps.flatten(1).topk(rank, sorted=False).values.amin(1)
        for maps in upsampled_chunks(scores, stride, size)
    ]
    strong = torch.cat([scores.new_zeros(0), *strong])
    strength = instance_cams.flatten(1).amax(1)
    # An instance of fewer pixels than that has no such value: it is noise.
    return torch.where(strong > 0, strength / strong.clamp(min=1e-20), 0)[:, None, None]


def normalized_scores(
    cues: IRNetCues, normalization: str, top_fraction: float, *, stride: int, size: tuple[int, int]
) -> Tensor:
    """(I, h, w) float, the instances' scores in [0, 1] at the image's pixels; for the arguments see
    :func:`instance_scale`."""
    return cues.instance_scores * instance_scale(
        cues.instance_scores,
        cues.instance_cams,
        normalization,
        top_fraction,
        stride=stride,
        size=size,
    )


def upsample(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """(I, h, w) at a stride to (I, H, W)."""
    maps = F.interpolate(maps[:, None], scale_factor=stride, mode="bilinear", align_corners=False)
    return maps[:, 0, : size[0], : size[1]]


def upsampled_chunks(maps: Tensor, stride: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """:func:`upsample`, a few maps at a time: there may be hundreds, of a large image."""
    for chunk in maps.split(max(1, CHUNK_PIXELS // (size[0] * size[1]))):
        if len(chunk):  # none at all is one empty chunk
            yield upsample(chunk, stride, size)


def upsampled_maximum(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The maximum over all of :func:`upsample`; a scalar, 1 without maps."""
    if not maps.numel():
        return maps.new_ones(())
    # Upsampling averages: a map whose cells are all below a pixel already seen is not needed.
    bounds, order = maps.flatten(1).amax(1).sort(descending=True)
    maximum, bounds, first = maps.new_zeros(()), bounds.tolist(), 0
    for chunk in upsampled_chunks(maps[order], stride, size):
        if bounds[first] <= maximum:
            break
        maximum = torch.maximum(maximum, chunk.amax())
        first += len(chunk)
    return maximum


def find_winners(scores: Tensor, stride: int, size: tuple[int, int], bg_threshold: float):
    """(H, W) index of the highest score + 1, 0 for the background; and (H, W) its score."""
    # Upsampling averages: what is below the threshold everywhere cannot win at any pixel.
    candidates = (scores.flatten(1).amax(1) > bg_threshold).nonzero()[:, 0]
    best = scores.new_full(size, bg_threshold)
    winners, first = torch.zeros(size, dtype=torch.int64, device=scores.device), 0
    for chunk in upsampled_chunks(scores[candidates], stride, size):
        highest, index = chunk.clamp(max=1).max(0)
        winners = torch.where(highest > best, candidates[first + index] + 1, winners)
        best = torch.maximum(best, highest)
        first += len(chunk)
    return winners, best


class InstanceWalk(torch.nn.Module):
    """What a trained :class:`wsis_d2.modeling.IRNet` and the walk say of an image (section 5).

    Args:
        network: the IRNet.
        cams: CAMs of the images.
        stride: stride of the network's maps, in pixels.
        use_boundary, use_displacement: False leaves that part out (the paper's ablation).
        bg_threshold: score of the background.
        normalization, min_area: see :func:`instance_scale`, whose ``top_fraction`` is the least
            area of an instance as a fraction of the image's.
        options: see :func:`walk_instance_cams`.
    """

    @configurable
    def __init__(
        self,
        *,
        network: torch.nn.Module,
        cams: CAMFolder,
        stride: int,
        use_boundary: bool,
        use_displacement: bool,
        bg_threshold: float,
        normalization: str,
        min_area: float,
        options: dict,
    ):
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise UserError(
                f"PSEUDO_LABELS.IRNET.NORMALIZATION is {normalization!r}: choose one of "
                f"{', '.join(NORMALIZATIONS)}"
            )
        self.network = network
        self.cams = cams
        self.stride = stride
        self.use_boundary = use_boundary
        self.use_displacement = use_displacement
        self.bg_threshold = bg_threshold
        self.normalization = normalization
        self.min_area = min_area
        self.options = options

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL``, ``CAM`` and ``PSEUDO_LABELS``."""
        irnet = cfg.PSEUDO_LABELS.IRNET
        return {
            "network": build_model(cfg),
            "cams": CAMFolder(cfg),
            "stride": cfg.MODEL.IRNET.STRIDE,
            "use_boundary": irnet.USE_BOUNDARY,
            "use_displacement": irnet.USE_DISPLACEMENT,
            "bg_threshold": irnet.BG_THRESHOLD,
            "normalization": irnet.NORMALIZATION,
            "min_area": irnet.MIN_AREA,
            "options": {
                **walk_settings(cfg),
                "centroid_iters": irnet.CENTROID_ITERS,
                "centroid_threshold": irnet.CENTROID_THRESHOLD,
            },
        }

    @torch.no_grad()
    def forward(self, x: dict) -> IRNetCues:
        """What follows for one image; ``x`` is a model input dict."""
        (relations,) = self.network([x])
        boundary, displacement = relations["boundary"], relations["displacement"]
        cam, class_ids = self.cams.get(x)
        cam = cam.to(boundary.device)
        if cam.shape[1:] != boundary.shape:  # CAMs were stored at another stride
            cam = F.interpolate(cam[None], boundary.shape, mode="bilinear", align_corners=False)[0]
        return walk_instance_cams(
            cam,
            class_ids.to(cam.device),
            boundary if self.use_boundary else None,
            displacement if self.use_displacement else None,
            **self.options,
        )
