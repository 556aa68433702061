"""The built-in proposal generator: regions of hierarchical segmentations, scored by general cues.

It stands in the tradition of selective search (Uijlings et al., IJCV 2013) and MCG (Arbelaez et
al., CVPR 2014), on scikit-image's graph-based segmentation:

1. Every color space and scale gives a base segmentation (Felzenszwalb and Huttenlocher, IJCV 2004).
2. Each is merged bottom-up, most similar neighbors first, into a tree. The dissimilarity at which
   two base regions come together is the strength of the contour between them; its mean over all
   trees is the contour map of the image, as with MCG's ultrametric contour maps.
3. Every node of a tree and every pair of neighbors in its upper part is a candidate; holes are
   filled.
4. Objectness is a logistic function of a few cues, see :data:`OBJECTNESS_WEIGHTS`.
5. Non-maximum suppression over the candidates of all trees.

All cues are sums over base regions and over the contours between them, so that the thousands of
candidates are scored by a few matrix products, before any mask is drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import cv2
import numpy as np
from skimage.color import rgb2hsv, rgb2lab
from skimage.segmentation import felzenszwalb

from ..structures import MaskProposals, encode_mask, mask_nms
from .regions import RegionGraph

_COLOR_SPACES = {
    "lab": lambda image: rgb2lab(image) / 100.0,
    "hsv": rgb2hsv,
    "rgb": lambda image: image / 255.0,
}

# Weights of the cues in the logit of objectness. They were fitted once, on Shapes and on photos
# together, to maximise the IoU of the best candidate among those that contain a point of an object;
# then scaled so that objectness is about the chance that this candidate has an IoU above 0.5. No
# cue knows a color or a shape of either.
OBJECTNESS_WEIGHTS = {
    # Mean logarithm of the contour strength along the outline: gaps cost most.
    "outline_contour": 1.5,
    # Contour strength inside the region per pixel of outline.
    "inner_contour": -0.09,
    # Distance of the color histograms of the region and its neighbors along the outline, 0..1.
    "color_contrast": 1.7,
    # Area of the region over that of the ellipse with the same second moments; 1 for an ellipse.
    "ellipse_fill": 3.9,
    # 4 sqrt(area) / perimeter in pixel sides; 1 for a square and for no smoother outline.
    "compactness": 5.5,
    # Part of the perimeter that lies on the image's border.
    "border_contact": -2.9,
    # Size prior: logarithm of the part of the image that the region covers, and its square.
    "log_area": -0.31,
    "squared_log_area": -0.048,
}
_OBJECTNESS_BIAS = -8.3

# Parts of boundary, color and texture in the dissimilarity of two regions, and the power of the
# smaller one's relative area in it, which makes small regions merge first.
_BOUNDARY_PART, _COLOR_PART, _TEXTURE_PART = 4 / 7, 2 / 7, 1 / 7
_SIZE_POWER = 0.3
# Pairs of neighbors are candidates from the moment on when so many regions are left.
_PAIRED_REGIONS = 40
# Candidates of one tree that are drawn.
_MAX_PER_TREE = 300

_COLOR_BINS = 16, 20, 20  # of L, a and b
# Lower bounds of the bins of the gradient of L (0..100) per pixel; times 4 directions.
_TEXTURE_MAGNITUDES = 0.5, 1.0, 2.0, 4.0, 8.0
# Gradients (in Lab / 100 per pixel) are squashed by g / (g + this).
_HALF_STRENGTH = 0.06


def hierarchical_proposals(
    image: np.ndarray,
    scales: Sequence[float] = (50, 150, 400),
    sigma: float = 0.8,
    min_size: int = 20,
    color_spaces: Sequence[str] = ("lab", "hsv"),
    longest_edge: int = 400,
    nms_threshold: float = 0.9,
    max_proposals: int = 200,
    min_area: float = 0.001,
    max_area: float = 0.85,
) -> MaskProposals:
    """Propose masks for all that may be an object. Deterministic.

    Args:
        image: (H, W, 3) uint8 RGB.
        scales: of :func:`skimage.segmentation.felzenszwalb`: larger means larger base regions.
        sigma: of the Gaussian smoothing before it, in pixels of the working image.
        min_size: smallest base region, in pixels of the working image.
        color_spaces: "lab", "hsv" or "rgb".
        longest_edge: longer side of the working image in pixels; larger images are reduced to it.
        nms_threshold: candidates of a higher IoU with a better one are dropped.
        max_proposals: the best in objectness are kept.
        min_area, max_area: of a proposal, as a fraction of the image's area.

    Returns:
        Proposals on the image's size, objectness in [0, 1].

    Raises:
        ValueError: the image is no (H, W, 3) uint8 array, or a color space is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"no (H, W, 3) uint8 image: {image.dtype} array of shape {image.shape}")
    if unknown := set(color_spaces) - set(_COLOR_SPACES):
        raise ValueError(f"unknown color space {unknown.pop()!r}: use lab, hsv or rgb")
    size = image.shape[:2]
    working = reduced(image, longest_edge)
    lab = rgb2lab(working).astype(np.float32)
    histogram_bins = (*_color_bins(lab), _texture_bins(lab[..., 0]))
    strength = _edge_strength(lab)

    hierarchies = []
    for color_space in color_spaces:
        values = _COLOR_SPACES[color_space](working)
        for scale in scales:
            labels = felzenszwalb(values, scale=scale, sigma=sigma, min_size=min_size)
            regions = _RegionGraph(labels, histogram_bins, strength)
            hierarchies.append((regions, *_merge(regions)))
    contours = _contour_map([(regions, levels) for regions, _, levels in hierarchies])

    masks: list[dict] = []
    logits: list[np.ndarray] = []
    for regions, candidates, _ in hierarchies:
        score = _Objectness(regions, *contours)
        candidates = candidates[regions.in_area_range(candidates, min_area, max_area)]
        best = np.argsort(-score(candidates), kind="stable")[:_MAX_PER_TREE]
        candidates = np.unique(regions.fill_holes(candidates[best]), axis=0)
        candidates = candidates[regions.in_area_range(candidates, min_area, max_area)]
        logits.append(score(candidates))
        masks += [encode_mask(members[regions.labels]) for members in candidates]
    objectness = 1.0 / (1.0 + np.exp(-np.concatenate(logits)))
    keep = mask_nms(masks, objectness, nms_threshold, max_proposals)
    proposals = MaskProposals([masks[i] for i in keep], objectness[keep], working.shape[:2])
    return enlarged(proposals, size)


# ------------------------------------------------------------------------- pixels: what is compared


def _color_bins(lab: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Per channel of (H, W, 3) Lab: (H, W) int histogram bins and their number."""
    unit = (lab + (0.0, 80.0, 80.0)) / (100.0, 160.0, 160.0)
    return [
        (np.clip(unit[..., c] * bins, 0, bins - 1).astype(np.int64), bins)
        for c, bins in enumerate(_COLOR_BINS)
    ]


def _texture_bins(lightness: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W) int bins of gradient magnitude and direction, and their number."""
    dx, dy = _gradient(lightness, 1.0)
    direction = (np.arctan2(dy, dx) % np.pi * (4 / np.pi)).astype(np.int64) % 4
    magnitude = np.digitize(np.hypot(dx, dy), _TEXTURE_MAGNITUDES)
    return magnitude * 4 + direction, 4 * (len(_TEXTURE_MAGNITUDES) + 1)


def _edge_strength(lab: np.ndarray) -> np.ndarray:
    """(H, W) gradient of Lab in [0, 1), the stronger of a fine and a coarse scale."""
    strength = np.zeros(lab.shape[:2], dtype=np.float32)
    for sigma in (1.0, 2.0):
        dx, dy = _gradient(lab, sigma)
        # A step's gradient falls with sigma; half of that is made up for.
        norm = np.sqrt((dx**2 + dy**2).sum(axis=-1)) * (sigma**0.5 / 100.0)
        strength = np.maximum(strength, norm)
    return strength / (strength + _HALF_STRENGTH)


def _gradient(values: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    smooth = cv2.GaussianBlur(values, (0, 0), sigma)
    return cv2.Sobel(smooth, -1, 1, 0, scale=1 / 8), cv2.Sobel(smooth, -1, 0, 1, scale=1 / 8)


# -------------------------------------------------------------------------- regions and their trees


class _RegionGraph(RegionGraph):
    """Base regions, and what their dissimilarity and their cues need.

    Attributes:
        histograms: (R, F) pixel counts, color bins first; each pixel counts once in each group.
        moments: (R, 5) sums of x, y, x^2, y^2, xy.
        strength: (B,) sum of the edge strength along each boundary.
    """

    def __init__(
        self,
        labels: np.ndarray,
        histogram_bins: Sequence[tuple[np.ndarray, int]],
        strength: np.ndarray,
    ) -> None:
        super().__init__(labels)
        labels, count = self.labels, self.count
        self.histograms = np.concatenate(
            [
                np.bincount((labels * bins + index).ravel(), minlength=count * bins).reshape(
                    count, bins
                )
                for index, bins in histogram_bins
            ],
            axis=1,
        ).astype(np.float32)
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float64)
        self.moments = np.stack([self.sum_pixels(v) for v in (x, y, x * x, y * y, x * y)], axis=1)
        self.strength = self.sum_map_along(strength)


def _merge(regions: _RegionGraph) -> tuple[np.ndarray, np.ndarray]:
    """Merge the most similar neighbors until one region is left.

    Returns:
        candidates: (M, R) bool, the base regions of each node, single ones first, and of each pair
            of neighbors among the last `_PAIRED_REGIONS` regions.
        levels: (B,) the dissimilarity at which the two ends of each boundary came together, at
            least that of all merges before in the branch.
    """
    count = regions.count
    nodes = 2 * count - 1
    members = np.zeros((nodes, count), dtype=bool)
    members[:count] = np.eye(count, dtype=bool)
    area = np.zeros(nodes)
    area[:count] = regions.area
    histograms = np.zeros((nodes, regions.histograms.shape[1]), dtype=np.float32)
    histograms[:count] = regions.histograms
    level = np.zeros(nodes)
    alive = np.zeros(nodes, dtype=bool)
    alive[:count] = True
    # Per node: neighbor -> (length, strength) of the boundary.
    neighbors: list[dict[int, tuple[float, float]]] = [{} for _ in range(nodes)]
    pairs: dict[tuple[int, int], None] = {}

    def dissimilarity(a, b, length, strength):
        """Of node(s) a and nodes b; and the same with the preference for small regions."""
        difference = np.abs(histograms[a] / area[a, None] - histograms[b] / area[b, None])
        colors = sum(_COLOR_BINS)
        value = (
            _BOUNDARY_PART * strength / length
            + _COLOR_PART * difference[:, :colors].sum(axis=1) / (2 * len(_COLOR_BINS))
            + _TEXTURE_PART * difference[:, colors:].sum(axis=1) / 2
        )
        smaller = np.minimum(area[a], area[b]) / regions.labels.size
        return value, value * smaller**_SIZE_POWER

    first, second = regions.ends.T
    values, costs = dissimilarity(first, second, regions.length, regions.strength)
    queue = []
    for a, b, length, strength, value, cost in zip(
        *(v.tolist() for v in (first, second, regions.length, regions.strength, values, costs))
    ):
        neighbors[a][b] = neighbors[b][a] = (length, strength)
        queue.append((cost, a, b, value))
    heapq.heapify(queue)

    def pair_up(a):
        for b in neighbors[a]:
            pairs[min(a, b), max(a, b)] = None

    if count <= _PAIRED_REGIONS:
        for a in range(count):
            pair_up(a)
    new = count
    while queue:
        _, a, b, value = heapq.heappop(queue)
        if not (alive[a] and alive[b]):
            continue
        alive[[a, b]] = False
        alive[new] = True
        pairs.pop((a, b), None)  # It is the new node.
        members[new] = members[a] | members[b]
        area[new] = area[a] + area[b]
        histograms[new] = histograms[a] + histograms[b]
        level[new] = max(value, level[a], level[b])
        around = neighbors[a]
        for c, (length, strength) in neighbors[b].items():
            known_length, known_strength = around.get(c, (0.0, 0.0))
            around[c] = (known_length + length, known_strength + strength)
        around.pop(a, None)
        around.pop(b, None)
        neighbors[new] = around
        if around:
            others = np.fromiter(around, dtype=np.int64)
            length, strength = np.array(list(around.values())).T
            values, costs = dissimilarity(np.full(1, new), others, length, strength)
            for c, value, cost in zip(others.tolist(), values.tolist(), costs.tolist()):
                heapq.heappush(queue, (cost, c, new, value))
                neighbors[c].pop(a, None)
                neighbors[c].pop(b, None)
                neighbors[c][new] = around[c]
        left = nodes - new
        if left == _PAIRED_REGIONS:
            for c in np.flatnonzero(alive).tolist():
                pair_up(c)
        elif left < _PAIRED_REGIONS:
            pair_up(new)
        new += 1

    if pairs:
        a, b = np.array(list(pairs)).T
        candidates = np.concatenate([members, members[a] | members[b]])
    else:
        candidates = members
    # Nodes are numbered in the order of merging: the first that holds both ends joined them.
    together = members[count:, first] & members[count:, second]
    levels = level[count:][together.argmax(axis=0)] if len(first) else np.zeros(0)
    return candidates, levels


def _contour_map(
    hierarchies: Sequence[tuple[_RegionGraph, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Contour strengths between horizontal (H, W-1) and vertical (H-1, W) neighbors.

    The mean over the hierarchies of the levels at which two pixels come together, in units of the
    image's strong contours (95th percentile).
    """
    height, width = hierarchies[0][0].labels.shape
    horizontal, vertical = np.zeros((height, width - 1)), np.zeros((height - 1, width))
    for regions, levels in hierarchies:
        regions.draw_sides(levels, horizontal, vertical)
    present = np.concatenate([horizontal[horizontal > 0], vertical[vertical > 0]])
    unit = np.quantile(present, 0.95) if len(present) else 1.0
    return horizontal / unit, vertical / unit


# ------------------------------------------------------------------------------------ objectness


class _Objectness:
    """The logit of objectness of candidates, unions of base regions, from sums over the regions."""

    def __init__(self, regions: _RegionGraph, horizontal: np.ndarray, vertical: np.ndarray) -> None:
        self.regions = regions
        contour = regions.at_sides(horizontal, vertical)
        self._length = regions.matrix(regions.length)
        self._contour = regions.matrix(regions.sum_sides(contour))
        self._log_contour = regions.matrix(regions.sum_sides(np.log(contour + 0.03)))
        # Contours inside a base region are those that other trees see there.
        inner = np.zeros(regions.labels.shape)
        inner[:, :-1] += np.where(regions.sides[0], 0.0, horizontal)
        inner[:-1] += np.where(regions.sides[1], 0.0, vertical)
        self._inner_contour = regions.sum_pixels(inner)
        self._colors = regions.histograms[:, : sum(_COLOR_BINS)]

    def __call__(self, candidates: np.ndarray) -> np.ndarray:
        """(M, R) bool -> (M,) logits."""
        cues = self.cues(candidates)
        return _OBJECTNESS_BIAS + sum(w * cues[name] for name, w in OBJECTNESS_WEIGHTS.items())

    def cues(self, candidates: np.ndarray) -> dict[str, np.ndarray]:
        """(M, R) bool -> (M,) per cue, see :data:`OBJECTNESS_WEIGHTS`."""
        regions = self.regions
        inside = candidates.astype(np.float32)
        area = inside @ regions.area
        # (M, R): length of the outline along each region around the candidate.
        ring = inside @ self._length * ~candidates
        outline = np.maximum(ring.sum(axis=1), 1.0)
        log_contour = (inside @ self._log_contour * ~candidates).sum(axis=1)
        # A boundary between two regions of the candidate counts at both of its ends.
        inner = inside @ self._inner_contour + (inside @ self._contour * candidates).sum(axis=1) / 2
        border = inside @ regions.border

        own = inside @ self._colors / area[:, None]
        around = ring @ (self._colors / regions.area[:, None]) / outline[:, None]
        x, y, xx, yy, xy = (candidates @ regions.moments / area[:, None]).T
        # A pixel is a unit square: its own second moment is 1/12 on each axis.
        determinant = (xx - x * x + 1 / 12) * (yy - y * y + 1 / 12) - (xy - x * y) ** 2
        log_area = np.log(area / regions.labels.size)
        return {
            "outline_contour": log_contour / outline,
            "inner_contour": inner / outline,
            "color_contrast": np.abs(own - around).sum(axis=1) / (2 * len(_COLOR_BINS)),
            "ellipse_fill": area / (4 * np.pi * np.sqrt(np.maximum(determinant, 1e-3))),
            "compactness": 4 * np.sqrt(area) / (outline + border),
            "border_contact": border / (outline + border),
            "log_area": log_area,
            "squared_log_area": log_area**2,
        }


# ------------------------------------------------------------------------------------------ masks


def reduced(image: np.ndarray, longest_edge: int) -> np.ndarray:
    """An image (H, W, C) whose longer side is at most `longest_edge` pixels, by area means."""
    height, width = image.shape[:2]
    factor = longest_edge / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def enlarged(proposals: MaskProposals, size: tuple[int, int]) -> MaskProposals:
    """Proposals of the working image on the image's own (height, width), outlines interpolated."""
    if proposals.size == size:
        return proposals

    # One at a time: at the size of a large photo, hundreds of masks are gigabytes.
    def enlarge(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5

    masks = [encode_mask(enlarge(mask)) for mask in proposals.decode()]
    return MaskProposals(masks, proposals.objectness, size)
