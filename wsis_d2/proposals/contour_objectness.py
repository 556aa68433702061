"""Objectness of candidates from a contour map: a small network on what is seen of each of them.

The two models in ``weights/`` were fitted on the 128 photos of COCO128 (the first of COCO's
train2017), on 70,000 of their candidates and their IoU with 927 true masks. No photo of PASCAL VOC
was fitted on; the length of the shortlist, the diversity and the suppression were chosen on 63
photos of VOC. ``hed`` reads the contours, the side outputs and the features of HED (48 principal
components of the last maps of its blocks 4 and 5), ``contours`` one contour map of any origin; it
was fitted on HED's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import cv2
import numpy as np

from .contour_hierarchy import ContourMaps
from .regions import RegionGraph

# Logarithms of contours are bounded by this; upper bounds of what counts as a gap in the outline,
# in the fused map and in the fourth side.
_LOG_FLOOR = 0.03
_GAPS, _SIDE_GAPS = (0.1, 0.2, 0.4), (0.3, 0.5)
# Standardised cues are kept in this range, so that a strange image gets no strange objectness.
_MAX_DEVIATION = 8.0


def candidate_cues(
    candidates: np.ndarray,
    regions: RegionGraph,
    maps: ContourMaps,
    colors: np.ndarray,
    levels: np.ndarray,
) -> np.ndarray:
    """What shape, contours and color say of each candidate.

    Args:
        candidates: (M, R) bool, none of them empty.
        regions: R base regions, B boundaries.
        maps: on the size of the regions.
        colors: (R, 3) mean Lab / 100.
        levels: (B, L) levels of the hierarchies.

    Returns:
        (M, F) float32: 19 of shape and place; per map of contours, per kind of gap and twice per
        hierarchy, the mean along the outline, the sum inside per length of outline and the mean
        inside; one of the contours per area for the fused map and the two coarsest sides; six of
        color. 88 in all with five sides and four hierarchies.
    """
    height, width = regions.labels.shape
    longest = max(height, width)
    inside = candidates.astype(np.float32)
    area = inside @ regions.area.astype(np.float32)
    border = inside @ regions.border.astype(np.float32)
    first, second = _cut_boundaries(candidates, regions)
    along = _boundary_cues(regions, maps, levels)
    outline_sums = (first + second) @ along
    outline = np.maximum(outline_sums[:, :1], 1.0)
    # A boundary between two regions of the candidate counts at both of its ends.
    total = np.zeros((regions.count, along.shape[1]), dtype=np.float32)
    for end in regions.ends.T:
        np.add.at(total, end, along)
    inner_sums = np.maximum((inside @ total - outline_sums) / 2, 0.0)

    y, x = np.mgrid[:height, :width] / longest
    moments = regions.means(np.stack([x, y, x * x, y * y, x * y], axis=-1)) * regions.area[:, None]
    mean_x, mean_y, xx, yy, xy = (inside.astype(np.float64) @ moments / area[:, None]).T
    # A pixel is a unit square: its own second moment is 1/12 on each axis.
    var_x, var_y = xx - mean_x**2 + 1 / 12 / longest**2, yy - mean_y**2 + 1 / 12 / longest**2
    covariance = xy - mean_x * mean_y
    determinant = np.maximum(var_x * var_y - covariance**2, 1e-12)
    half = (var_x + var_y) / 2
    spread = np.sqrt(np.maximum(half**2 - (var_x * var_y - covariance**2), 0.0))
    off_x, off_y = mean_x - width / longest / 2, mean_y - height / longest / 2
    log_area = np.log(area / (height * width))
    perimeter = outline[:, 0] + border
    shape = [
        log_area,
        log_area**2,
        border / perimeter,
        border / (2 * (height + width)),
        4 * np.sqrt(area) / perimeter,
        area / longest**2 / (4 * np.pi * np.sqrt(determinant)),
        np.log((half + spread) / np.maximum(half - spread, 1e-9)),
        np.log(var_x / var_y),
        off_x,
        off_y,
        np.abs(off_x),
        np.abs(off_y),
        np.sqrt(var_x),
        np.sqrt(var_y),
        np.log(inside.sum(axis=1)),
    ]
    labels = regions.labels
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        shape.append(inside @ (np.bincount(line, minlength=regions.count) / len(line)))

    dense = np.stack([maps.fused, *maps.sides[-2:]], axis=-1)
    per_area = inside @ (regions.means(dense) * regions.area[:, None]) / area[:, None]
    own, around, everywhere = _surroundings(inside, (first, second), regions, colors)
    return np.concatenate(
        [
            np.stack(shape, axis=1),
            outline_sums[:, 1:] / outline,
            inner_sums[:, 1:] / outline,
            inner_sums[:, 1:] / np.maximum(inner_sums[:, :1], 1.0),
            per_area,
            np.abs(own - around),
            np.abs(own - everywhere),
        ],
        axis=1,
    ).astype(np.float32)


def appearance_cues(
    candidates: np.ndarray, regions: RegionGraph, features: np.ndarray
) -> np.ndarray:
    """Features of each candidate, along the outside of its outline, and of the whole image.

    Args:
        candidates: (M, R) bool. regions: R base regions.
        features: (R, K) means of the regions.

    Returns:
        (M, 3K) float32.
    """
    inside = candidates.astype(np.float32)
    cut = _cut_boundaries(candidates, regions)
    own, around, everywhere = _surroundings(inside, cut, regions, features)
    return np.concatenate([own, around, np.broadcast_to(everywhere, own.shape)], axis=1)


def _cut_boundaries(candidates: np.ndarray, regions: RegionGraph) -> tuple[np.ndarray, np.ndarray]:
    """Two (M, B) float32: 1 where a boundary's first, or its second, region alone is inside."""
    columns = np.ascontiguousarray(candidates.T)
    first, second = (columns[end] for end in regions.ends.T)
    return (first & ~second).T.astype(np.float32), (second & ~first).T.astype(np.float32)


def _boundary_cues(regions: RegionGraph, maps: ContourMaps, levels: np.ndarray) -> np.ndarray:
    """(B, 1 + C) float32: the length of each boundary and sums along it."""
    length = regions.length
    fused = regions.map_at_sides(maps.fused)
    sides = [regions.map_at_sides(side) for side in maps.sides]
    sums = [fused, *sides, np.log(fused + _LOG_FLOOR), *(fused < gap for gap in _GAPS)]
    if sides:
        sums += [sides[3] < gap for gap in _SIDE_GAPS]
    columns = [length, *(regions.sum_sides(values) for values in sums)]
    for level in levels.T:
        columns += [level * length, level**2 * length]
    return np.stack(columns, axis=1).astype(np.float32)


def _surroundings(
    inside: np.ndarray,
    cut: tuple[np.ndarray, np.ndarray],
    regions: RegionGraph,
    values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of (R, K) values: (M, K) inside, (M, K) along the outside of the outline, (K,) all."""
    values = values.astype(np.float32)
    area = regions.area.astype(np.float32)
    length = regions.length.astype(np.float32)[:, None]
    own = inside @ (values * area[:, None]) / (inside @ area)[:, None]
    first, second = regions.ends.T
    outline = np.maximum(cut[0] @ length + cut[1] @ length, 1.0)
    around = (cut[0] @ (values[second] * length) + cut[1] @ (values[first] * length)) / outline
    return own, around, area @ values / area.sum()


@dataclass(frozen=True)
class ObjectnessModel:
    """A multilayer perceptron on the standardised cues of a candidate.

    It is fitted to say how much of an object a candidate is: 0 below an IoU of 0.2 with the nearest
    object, 1 above 0.8, linear between.

    Attributes:
        projections: per feature map (K, k) float32, what is kept of its channels; may be none.
        offsets: per feature map (K,), subtracted first.
        mean, deviation: (F,) of the cues.
        weights, biases: of the layers; ReLU between them.
    """

    projections: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    mean: np.ndarray
    deviation: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    @classmethod
    def load(cls, name: str) -> ObjectnessModel:
        """A model of the package by its file's name, without the extension."""
        path = resources.files(__package__) / "weights" / f"{name}.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key].astype(np.float32) for key in archive.files}

        def numbered(prefix: str) -> tuple[np.ndarray, ...]:
            count = sum(key.startswith(prefix) for key in arrays)
            return tuple(arrays[f"{prefix}{i}"] for i in range(count))

        return cls(
            numbered("projection"),
            numbered("offset"),
            arrays["mean"],
            arrays["deviation"],
            numbered("weight"),
            numbered("bias"),
        )

    def region_features(self, regions: RegionGraph, maps: ContourMaps) -> np.ndarray:
        """(R, k) the projected feature maps, enlarged to the image, as means of the regions."""
        height, width = regions.labels.shape
        columns = []
        for feature, offset, projection in zip(maps.features, self.offsets, self.projections):
            projected = np.tensordot(feature - offset[:, None, None], projection, (0, 0))
            # OpenCV resizes up to four channels at a time.
            for start in range(0, projected.shape[2], 4):
                part = np.ascontiguousarray(projected[..., start : start + 4], dtype=np.float32)
                enlarged = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
                columns.append(regions.means(enlarged.reshape(height, width, -1)))
        return np.concatenate(columns, axis=1) if columns else np.zeros((regions.count, 0))

    def __call__(self, cues: np.ndarray) -> np.ndarray:
        """(M, F) cues -> (M,) float32 objectness in [0, 1]."""
        x = np.clip((cues - self.mean) / self.deviation, -_MAX_DEVIATION, _MAX_DEVIATION)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = x @ weight + bias
            if i < len(self.weights) - 1:
                x = np.maximum(x, 0.0)
        return 1.0 / (1.0 + np.exp(-x[:, 0]))


@cache
def objectness_model(name: str) -> ObjectnessModel:
    """The model of that name, loaded once."""
    return ObjectnessModel.load(name)
