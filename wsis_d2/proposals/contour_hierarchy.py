"""Candidates from a contour map: regions of several hierarchies, and unions of neighbors.

As in MCG (Arbelaez et al., CVPR 2014), the watershed of the contour map gives base regions, which
are merged across the weakest boundary first, and candidates are the regions of the hierarchy, the
pairs and the triples of neighbors in its upper part. The hierarchies share the base regions and
differ in the weight of fine and coarse contours, of color and of size, so that all candidates of an
image are rows of one matrix over the same regions.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from skimage.segmentation import watershed

from .regions import RegionGraph

# Pairs and triples are formed from the moment on when so many regions are left.
_PAIRED_REGIONS, _TRIPLED_REGIONS = 60, 25
# Smoothing of the contour map before the watershed, in pixels.
_SIGMA = 1.0


@dataclass(frozen=True)
class ContourMaps:
    """What a network says of the contours of an image.

    Attributes:
        fused: (H, W) float32 in [0, 1], the contour map.
        sides: (S, H, W) float32 in [0, 1], contour maps from fine to coarse; S may be 0.
        features: coarser maps (K, h, w) float32 of what is where; there may be none.
    """

    fused: np.ndarray
    sides: np.ndarray
    features: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, contours: np.ndarray) -> ContourMaps:
        """From a contour map (H, W) in [0, 1] alone."""
        contours = np.asarray(contours, dtype=np.float32)
        return cls(contours, np.zeros((0, *contours.shape), dtype=np.float32))


class _Rule(NamedTuple):
    """Which neighbors a hierarchy merges first: those across the smallest

    (contour + color * distance of mean Lab) * (smaller one's part of the image) ** size.
    """

    coarse: bool  # the mean of the coarse sides instead of the fused map
    color: float
    size: float


_RULES = (
    _Rule(False, 0.5, 0.1),
    _Rule(True, 0.3, 0.1),
    _Rule(False, 0.5, 0.3),
    _Rule(True, 0.5, 0.3),
)


class Hierarchy(NamedTuple):
    """A binary tree over R base regions; its nodes are numbered in the order of merging.

    Attributes:
        children: (R-1, 2) the nodes that became node R, R+1, ...
        levels: (2R-1,) dissimilarity at which each node was made, at least that of its children.
        pairs: (P, 2) nodes that were neighbors at some time, the lower number first.
        death: (2R-1,) number of merges when each node was taken up by another one.
    """

    children: np.ndarray
    levels: np.ndarray
    pairs: np.ndarray
    death: np.ndarray


def base_regions(contours: np.ndarray) -> RegionGraph:
    """The watershed of a contour map (H, W) in [0, 1]."""
    smooth = cv2.GaussianBlur(contours, (0, 0), _SIGMA)
    labels = watershed(np.round(smooth * 255).astype(np.uint8))
    # A flat map has no minimum, and no basin.
    return RegionGraph(np.maximum(labels - 1, 0))


def region_candidates(
    regions: RegionGraph, maps: ContourMaps, colors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of all hierarchies.

    Args:
        regions: R base regions with B boundaries.
        maps: the contours.
        colors: (R, 3) mean Lab / 100 of the regions.

    Returns:
        candidates: (M, R) bool, all different, none with holes.
        levels: (B, L) level at which the two ends of each boundary come together, per hierarchy.
    """
    fused = regions.sum_map_along(maps.fused)
    coarse = regions.sum_map_along(maps.sides[2:].mean(axis=0)) if len(maps.sides) else fused
    rules = _RULES if len(maps.sides) else tuple(rule for rule in _RULES if not rule.coarse)
    candidates, levels = [], []
    for rule in rules:
        tree = merge(regions, coarse if rule.coarse else fused, colors, rule.color, rule.size)
        members = _members(regions.count, tree.children)
        pairs, triples = _combinations(regions.count, tree)
        candidates += [
            members,
            members[pairs[:, 0]] | members[pairs[:, 1]],
            members[triples[:, 0]] | members[triples[:, 1]] | members[triples[:, 2]],
        ]
        levels.append(_boundary_levels(regions, members, tree.levels))
    unique = _unique_rows(np.concatenate(candidates))
    return _unique_rows(regions.fill_holes(unique)), np.stack(levels, axis=1)


def merge(
    regions: RegionGraph,
    strength: np.ndarray,
    colors: np.ndarray,
    color_weight: float = 0.0,
    size_power: float = 0.0,
) -> Hierarchy:
    """Merge the least dissimilar neighbors until one region is left; see :class:`_Rule`.

    Args:
        regions: R base regions with B boundaries.
        strength: (B,) sum of the contour along each boundary.
        colors: (R, 3).
        color_weight, size_power: of the rule.
    """
    count = regions.count
    nodes = 2 * count - 1
    area = np.zeros(nodes)
    area[:count] = regions.area
    color = np.zeros((nodes, colors.shape[1]))
    color[:count] = colors
    pixels = regions.labels.size

    def dissimilarity(a, b, length, strength):
        distance = np.sqrt(((color[a] - color[b]) ** 2).sum(axis=-1))
        value = strength / length + color_weight * distance
        return value, value * (np.minimum(area[a], area[b]) / pixels) ** size_power

    # Per node: neighbor -> (length, strength) of the boundary.
    neighbors: list[dict[int, tuple[float, float]]] = [{} for _ in range(nodes)]
    first, second = regions.ends.T
    values, costs = dissimilarity(first, second, regions.length, strength)
    queue, pairs = [], []
    for a, b, long, strong, value, cost in zip(
        *(v.tolist() for v in (first, second, regions.length, strength, values, costs))
    ):
        neighbors[a][b] = neighbors[b][a] = (long, strong)
        queue.append((cost, a, b, value))
        pairs.append((a, b))
    heapq.heapify(queue)

    alive = bytearray(nodes)
    alive[:count] = b"\1" * count
    levels = [0.0] * nodes
    death = [count] * nodes
    children = []
    new = count
    while queue:
        _, a, b, value = heapq.heappop(queue)
        if not (alive[a] and alive[b]):
            continue
        alive[a] = alive[b] = 0
        alive[new] = 1
        children.append((a, b))
        death[a] = death[b] = len(children)
        levels[new] = max(value, levels[a], levels[b])
        area[new] = area[a] + area[b]
        color[new] = (color[a] * area[a] + color[b] * area[b]) / area[new]
        around = neighbors[a]
        for c, (long, strong) in neighbors[b].items():
            known_length, known_strength = around.get(c, (0.0, 0.0))
            around[c] = (known_length + long, known_strength + strong)
        around.pop(a, None)
        around.pop(b, None)
        neighbors[new] = around
        if around:
            others = list(around)
            lengths, strengths = np.array(list(around.values())).T
            values, costs = dissimilarity(new, np.array(others), lengths, strengths)
            for c, value, cost in zip(others, values.tolist(), costs.tolist()):
                heapq.heappush(queue, (cost, c, new, value))
                pairs.append((c, new))
                its = neighbors[c]
                its.pop(a, None)
                its.pop(b, None)
                its[new] = around[c]
        new += 1
    return Hierarchy(
        np.array(children, dtype=np.int64).reshape(-1, 2),
        np.array(levels),
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.array(death),
    )


def _members(count: int, children: np.ndarray) -> np.ndarray:
    """(N, R) bool: the base regions of each node."""
    members = np.zeros((count + len(children), count), dtype=bool)
    members[:count] = np.eye(count, dtype=bool)
    for node, (a, b) in enumerate(children, start=count):
        np.logical_or(members[a], members[b], out=members[node])
    return members


def _combinations(count: int, tree: Hierarchy) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) pairs and (T, 3) triples of nodes that were neighbors when few regions were left."""
    pairs = tree.pairs
    birth = np.maximum(np.arange(len(tree.death)) - count + 1, 0)
    left = count + 1 - np.minimum(tree.death[pairs[:, 0]], tree.death[pairs[:, 1]])
    merged = {tuple(sorted(pair)) for pair in tree.children.tolist()}
    paired = [pair for pair in pairs[left <= _PAIRED_REGIONS].tolist() if tuple(pair) not in merged]

    adjacent: dict[int, list[int]] = {}
    for a, b in pairs[left <= _TRIPLED_REGIONS].tolist():
        adjacent.setdefault(a, []).append(b)
        adjacent.setdefault(b, []).append(a)
    born, died = birth.tolist(), tree.death.tolist()
    triples = set()
    for middle, around in adjacent.items():
        for i, a in enumerate(around):
            for b in around[i + 1 :]:
                start = max(born[a], born[b], born[middle])
                end = min(died[a], died[b], died[middle])
                if start < end and count + 1 - end <= _TRIPLED_REGIONS:
                    triples.add(tuple(sorted((a, b, middle))))
    return (
        np.array(paired, dtype=np.int64).reshape(-1, 2),
        np.array(sorted(triples), dtype=np.int64).reshape(-1, 3),
    )


def _boundary_levels(regions: RegionGraph, members: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(B,) level at which the two ends of each boundary came together."""
    if len(regions.ends) == 0:
        return np.zeros(0)
    first, second = regions.ends.T
    # The first node, in the order of merging, that holds both ends joined them.
    columns = np.ascontiguousarray(members[regions.count :].T)
    return levels[regions.count :][(columns[first] & columns[second]).argmax(axis=1)]


def _unique_rows(members: np.ndarray) -> np.ndarray:
    """The different rows of (M, R) bool, in the order of their first appearance."""
    packed = np.packbits(members, axis=1)
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    return members[np.sort(np.unique(rows, return_index=True)[1])]
