"""Pictures of inter-pixel relations: class boundaries, displacements, clusters, walks, features.

The conventions are those of :mod:`wsis_d2.visualization.drawing`: every function takes an RGB
picture, (H, W, 3) uint8, and returns a new one that is ``scale`` times as large. Maps may be of any
resolution and are brought to the size of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torchvision.utils import flow_to_image

from .drawing import (
    _blend,
    _check_lengths,
    _check_maps,
    _inner_outline,
    _line_width,
    _resize_labels,
    _resize_maps,
    _unit,
    instance_colors,
    resize_image,
)

BOUNDARY_COLOR = (255, 214, 120)


def draw_boundary(
    image: np.ndarray,
    boundary: np.ndarray,
    *,
    maximum: float = 1.0,
    scale: float = 1.0,
) -> np.ndarray:
    """Light up the class boundaries on the darkened picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        boundary: (h, w) float >= 0, probability of a class boundary.
        maximum: the value from which on the light is full.
        scale: see the module.
    """
    canvas = _darken(resize_image(image, scale))
    boundary = _resize_maps(_check_maps(boundary, 2)[None], canvas.shape[:2])[0]
    return _blend(canvas, np.array(BOUNDARY_COLOR), np.minimum(boundary / maximum, 1)[..., None])


def draw_displacement(
    image: np.ndarray,
    displacement: np.ndarray,
    *,
    maximum: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Color a displacement field as optical flow is: hue is the direction, saturation the length.

    An object whose pixels all point to its centroid becomes a pinwheel of all hues, white in the
    middle. The color wheel of Baker et al. (IJCV 2011) stands in the corner that has the shortest
    displacements: the color at each place of the wheel is that of a displacement from the wheel's
    center to this place, its rim is ``maximum``.

    Args:
        image: (H, W, 3) uint8 RGB; only its size is used.
        displacement: (2, h, w) float, (dy, dx) in cells of the map.
        maximum: the length from which on colors are saturated; the 99th percentile of the lengths
            by default.
        scale: see the module.
    """
    displacement = np.asarray(displacement, dtype=np.float32)
    if displacement.ndim != 3 or len(displacement) != 2 or not np.isfinite(displacement).all():
        raise ValueError(f"expected finite (2, h, w) displacements, got {displacement.shape}")
    shape = resize_image(image, scale).shape[:2]
    if maximum is None:
        maximum = displacement_maximum(displacement)
    field = _resize_maps(displacement / max(maximum, 1e-20), shape)
    field /= np.maximum(np.hypot(*field), 1)

    radius = 1 + round(min(shape) * 0.11)
    wheel = np.mgrid[-radius : radius + 1, -radius : radius + 1] / radius
    disk = np.hypot(*wheel) <= 1
    corners = [
        (slice(None), rows, columns)
        for rows in (slice(-2 * radius - 1, None), slice(2 * radius + 1))
        for columns in (slice(-2 * radius - 1, None), slice(2 * radius + 1))
    ]
    corner = min(corners, key=lambda c: float(np.hypot(*field[c]).sum()))
    # With the wheel in it the longest displacement is 1, which is what the colors are relative to.
    field[corner] = np.where(disk, wheel, 0)
    flow = torch.from_numpy(field[::-1].copy())  # (dx, dy)
    canvas = flow_to_image(flow).permute(1, 2, 0).numpy().copy()
    rim = _inner_outline(disk, _line_width(shape))
    canvas[corner[1:]][rim] = 60
    return canvas


def displacement_maximum(displacement: np.ndarray) -> float:
    """The length, in cells, at which :func:`draw_displacement` saturates: the 99th percentile."""
    return float(np.quantile(np.hypot(*np.asarray(displacement, dtype=np.float32)), 0.99))


def draw_clusters(
    image: np.ndarray,
    clusters: np.ndarray,
    centroids: np.ndarray | None = None,
    *,
    alpha: float = 0.6,
    scale: float = 1.0,
) -> np.ndarray:
    """Give every cluster a color of its own on the gray picture, and mark the centroids.

    Args:
        image: (H, W, 3) uint8 RGB.
        clusters: (h, w) integers >= 0; a cluster's color depends on its number alone.
        centroids: (2, h, w) integers, y and x of the cell at which each cell's path ends.
        alpha: opacity, in [0, 1].
        scale: see the module.
    """
    canvas = _darken(resize_image(image, scale), 0.8)
    shape = canvas.shape[:2]
    clusters = np.asarray(clusters).astype(np.int32)
    values, inverse = np.unique(_resize_labels(clusters, shape), return_inverse=True)
    canvas = _blend(canvas, instance_colors(values)[inverse.reshape(shape)], alpha)
    if centroids is None:
        return canvas
    centroids = np.asarray(centroids)
    if centroids.shape != (2, *clusters.shape):
        raise ValueError(f"expected centroids {(2, *clusters.shape)}, got {centroids.shape}")
    cells = np.unique(centroids.reshape(2, -1), axis=1).T
    radius = max(1, round(1.5 * _unit(shape)))
    for y, x in (cells + 0.5) * np.array(shape) / clusters.shape - 0.5:
        center = (round(x * 16), round(y * 16))
        for r, value in ((radius + 1, 0), (radius, 255)):
            cv2.circle(canvas, center, r * 16, [value] * 3, cv2.FILLED, cv2.LINE_AA, shift=4)
    return canvas


def draw_instance_scores(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    color_ids: Sequence[int] | None = None,
    maximum: float | None = None,
    threshold: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Show several score maps at once, each in its own hue on the darkened picture.

    The color of a pixel is that of its highest score, and the brighter the higher it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (K, h, w) float >= 0.
        color_ids: K integers that choose the hues; the index of the map by default.
        maximum: the score that is shown brightest; the highest of all by default.
        threshold: the score of the background: where a map wins against it and against the other
            maps is outlined.
        scale: see the module.
    """
    canvas = _darken(resize_image(image, scale))
    shape = canvas.shape[:2]
    scores = _check_maps(scores, 3)
    color_ids = range(len(scores)) if color_ids is None else color_ids
    _check_lengths(len(scores), color_ids=color_ids)
    maximum = scores.max(initial=0) if maximum is None else maximum
    if maximum <= 0 or not len(scores):
        return canvas
    # One map at a time: there may be hundreds.
    winner, best = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for i, score in enumerate(scores):
        score = _resize_maps(score[None], shape)[0]
        winner[score > best] = i
        np.maximum(best, score, out=best)
    colors = instance_colors(color_ids)
    canvas = _blend(canvas, colors[winner], np.minimum(best / maximum, 1)[..., None])
    if threshold is None:
        return canvas
    for i in np.unique(winner[best > threshold]):
        region = (winner == i) & (best > threshold)
        canvas[_inner_outline(region, _line_width(shape))] = colors[i]
    return canvas


def draw_features(image: np.ndarray, features: np.ndarray, *, scale: float = 1.0) -> np.ndarray:
    """Show features by their first three principal components, as red, green and blue.

    Pixels of like features have like colors. Each component is stretched from its 1st to its 99th
    percentile.

    Args:
        image: (H, W, 3) uint8 RGB; only its size is used.
        features: (C, h, w) float.
        scale: see the module.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 3 or not np.isfinite(features).all():
        raise ValueError(f"expected finite (C, h, w) features, got shape {features.shape}")
    shape = resize_image(image, scale).shape[:2]
    points = features.reshape(len(features), -1)
    points = points - points.mean(1, keepdims=True)
    _, axes = np.linalg.eigh(points @ points.T)
    axes = axes[:, ::-1][:, :3]  # the largest variance first
    # An axis has no sign of its own: let its largest entry be positive.
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))
    components = np.zeros((3, points.shape[1]))
    components[: axes.shape[1]] = axes.T @ points
    low, high = np.quantile(components, (0.01, 0.99), axis=1)[..., None]
    colors = np.where(high > low, (components - low) / np.where(high > low, high - low, 1), 0.5)
    colors = np.clip(colors, 0, 1).reshape(3, *features.shape[1:]).astype(np.float32)
    return (_resize_maps(colors, shape).transpose(1, 2, 0) * 255).round().astype(np.uint8)


def _darken(image: np.ndarray, brightness: float = 0.3) -> np.ndarray:
    """The picture in gray, less bright, so that colors on it are seen for what they are."""
    gray = image.astype(np.float64).mean(axis=2, keepdims=True) * brightness
    return np.repeat(gray, 3, axis=2).round().astype(np.uint8)
