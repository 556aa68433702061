"""Masks as polygons.

A *ring* is a closed line of points ``(x, y)``, (N, 2) int64, without the first one again at its
end. A piece of a mask is its outer ring and one ring for each of its holes.

There are two kinds. Rings along pixel *edges* enclose whole pixels: the mask of a single pixel
(0, 0) is the square from (0, 0) to (1, 1). pycocotools, and so COCO and Detectron2, fills them to
the very same mask. Rings through pixel *centers* run on the outermost pixels themselves: the same
mask is the point (0, 0). OpenCV's ``fillPoly``, and so most readers of YOLO's files, fills them to
the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree

Ring = np.ndarray


def mask_rings(mask: np.ndarray, along: str = "edges") -> list[list[Ring]]:
    """The pieces of a mask as rings.

    Args:
        mask: (H, W) bool, or 0 and 1.
        along: "edges" or "centers", see the module. Rings along centers hold every pixel that they
            pass, those along edges the corners alone.

    Returns:
        The rings of each piece, the outer one first; [] for an empty mask. Pixels that touch at a
        corner are one piece.
    """
    mask = np.ascontiguousarray(mask, dtype=np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return []
    mask = mask[y : y + height, x : x + width]
    if along == "edges":
        # Of the two halves of a pixel, the first lies at its left (upper) edge, the second at its
        # right (lower) one.
        contours, parents = _contours(mask.repeat(2, axis=0).repeat(2, axis=1))
        contours = [without_straight((contour + 1) // 2) for contour in contours]
    else:
        contours, parents = _contours(np.ascontiguousarray(mask))
    pieces = {i: [] for i, parent in enumerate(parents) if parent < 0}
    for i, (contour, parent) in enumerate(zip(contours, parents)):
        ring = contour + (x, y)
        if parent < 0:
            pieces[i].insert(0, ring)
        else:
            pieces[parent].append(ring)
    return list(pieces.values())


def _contours(mask: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
    """OpenCV's contours, (N, 2) int64, and of each hole the piece that it is in, else -1."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = np.reshape(hierarchy, (-1, 4))[:, 3].tolist()
    return [contour.reshape(-1, 2).astype(np.int64) for contour in contours], parents


def without_straight(ring: Ring) -> Ring:
    """A ring without the points that it passes straight on, and without those that repeat."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring
    if len(ring) < 3:
        return ring
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    returns = (before * after).sum(axis=1) < 0
    return ring[turns | returns]


def join_rings(rings: Sequence[Ring]) -> Ring:
    """One ring of several, for formats that have one polygon per object.

    Each ring is tied to the nearest one by a slit: a line there and back. Readers that fill by
    parity (pycocotools, OpenCV) leave holes open and see nothing of a slit, but for OpenCV, which
    also draws the line itself, one pixel wide: within a piece it lies on the mask, between two
    pieces it is seen.

    Args:
        rings: one or more.
    """
    joined = ring = rings[0]
    points = np.concatenate([np.empty((0, 2), np.int64), *rings[1:]])
    owners = np.repeat(np.arange(1, len(rings)), [len(ring) for ring in rings[1:]])
    # Of each point that waits: the nearest one of those that are joined, and how far it is.
    distances, anchors = np.full(len(points), np.inf), np.zeros_like(points)
    while len(points):
        found, nearest = cKDTree(ring).query(points)
        closer = found < distances
        distances[closer], anchors[closer] = found[closer], ring[nearest[closer]]
        best = distances.argmin()
        start = (rings[owners[best]] == points[best]).all(axis=1).argmax()
        at = (joined == anchors[best]).all(axis=1).argmax()
        ring = np.roll(rings[owners[best]], -start, axis=0)
        joined = np.concatenate([joined[: at + 1], ring, ring[:1], joined[at:]])
        waiting = owners != owners[best]
        points, owners = points[waiting], owners[waiting]
        distances, anchors = distances[waiting], anchors[waiting]
    return joined
