"""The built-in generator for photographs: proposals from a contour map.

A contour map of a network drives the hierarchies (:mod:`.contour_hierarchy`), objectness is learnt
(:mod:`.contour_objectness`), and the list is diversified, so that its first entries are different
objects.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from ..errors import UserError
from ..files import write_bytes
from ..structures import MaskProposals, encode_mask
from .contour_hierarchy import ContourMaps, base_regions, region_candidates
from .contour_objectness import appearance_cues, candidate_cues, objectness_model
from .hierarchical import enlarged, reduced
from .regions import RegionGraph

# Best candidates in objectness among which the proposals are chosen.
_SHORTLIST = 2000


def photo_proposals(
    image: np.ndarray,
    contours: Callable[[np.ndarray], ContourMaps],
    longest_edge: int = 320,
    **settings: Any,
) -> MaskProposals:
    """Proposals of a photo of any size, by way of a smaller one.

    Args:
        image: (H, W, 3) uint8 RGB.
        contours: gives the contours of the reduced image.
        longest_edge: longer side of the reduced image in pixels; smaller ones are taken as they
            are.
        settings: of :func:`contour_proposals`.

    Returns:
        Proposals on the image's own size.

    Raises:
        UserError: as `contours`.
        ValueError: the image is no (H, W, 3) uint8 array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"no (H, W, 3) uint8 image: {image.dtype} array of shape {image.shape}")
    working = reduced(image, longest_edge)
    proposals = contour_proposals(working, contours(working), **settings)
    return enlarged(proposals, image.shape[:2])


def contour_proposals(
    image: np.ndarray,
    maps: ContourMaps,
    nms_threshold: float = 0.75,
    diversity: float = 0.6,
    max_proposals: int = 200,
    min_area: float = 0.001,
    max_area: float = 0.9,
) -> MaskProposals:
    """Propose masks for all that may be an object. Deterministic.

    Args:
        image: (h, w, 3) uint8 RGB, of the size of the maps.
        maps: of :func:`.hed.hed_contours`; or ``ContourMaps.of(contours)`` of any contour map
            (h, w) in [0, 1], such as IRNet's class boundaries, whose objectness knows less.
        nms_threshold: candidates of a higher IoU with a better one are dropped.
        diversity: what an IoU of 1 with a proposal that stands before costs, in objectness.
        max_proposals: that many are kept.
        min_area, max_area: of a proposal, as a fraction of the image's area.

    Returns:
        Proposals on the size of the maps. Their objectness, in [0, 1], is what is left after
        `diversity`.

    Raises:
        ValueError: the sizes do not agree, or the contours are not in [0, 1].
    """
    if image.shape[:2] != maps.fused.shape or 0 in image.shape:
        raise ValueError(f"an image of {image.shape}, but contours of {maps.fused.shape}")
    if not ((maps.fused >= 0) & (maps.fused <= 1)).all():
        raise ValueError("contours must be in [0, 1]")
    lab = (rgb2lab(image) / 100.0).astype(np.float32)
    regions = base_regions(maps.fused)
    colors = regions.means(lab)
    candidates, levels = region_candidates(regions, maps, colors)
    candidates = candidates[regions.in_area_range(candidates, min_area, max_area)]
    if len(candidates) == 0:
        return MaskProposals([], np.zeros(0), image.shape[:2])
    cues = candidate_cues(candidates, regions, maps, colors, levels)
    model = objectness_model("hed" if maps.features else "contours")
    if maps.features:
        features = model.region_features(regions, maps)
        cues = np.concatenate([cues, appearance_cues(candidates, regions, features)], axis=1)
    chosen, objectness = choose_diverse(
        candidates, model(cues), regions, nms_threshold, diversity, max_proposals
    )
    masks = [encode_mask(members[regions.labels]) for members in candidates[chosen]]
    return MaskProposals(masks, objectness, image.shape[:2])


def choose_diverse(
    candidates: np.ndarray,
    objectness: np.ndarray,
    regions: RegionGraph,
    nms_threshold: float,
    diversity: float,
    max_chosen: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) with suppression.

    One by one, the candidate of the highest objectness less `diversity` times its IoU with the
    nearest one chosen.

    Args:
        candidates: (M, R) bool.
        objectness: (M,).
        regions: R base regions.
        nms_threshold: candidates of a higher IoU with a chosen one are dropped.
        diversity: see above.
        max_chosen: at most so many.

    Returns:
        (K,) indices, and (K,) what was highest, which falls from one to the next; at least 0.
    """
    shortlist = np.argsort(-objectness, kind="stable")[:_SHORTLIST]
    members = candidates[shortlist].astype(np.float32)
    common = (members * regions.area.astype(np.float32)) @ members.T
    area = np.diagonal(common)
    iou = common / (area[:, None] + area[None] - common)
    value = objectness[shortlist].astype(np.float64)
    nearest = np.zeros(len(value))
    alive = np.ones(len(value), dtype=bool)
    chosen, left = [], []
    while len(chosen) < max_chosen and alive.any():
        marginal = np.where(alive, value - diversity * nearest, -np.inf)
        best = int(marginal.argmax())
        chosen.append(best)
        left.append(max(marginal[best], 0.0))
        nearest = np.maximum(nearest, iou[best])
        alive &= iou[best] <= nms_threshold
        alive[best] = False
    return shortlist[chosen], np.array(left, dtype=np.float32)


def contour_file(folder: str | Path, file_name: str | Path) -> Path:
    """Where the contour map of an image is: ``<folder>/<stem of the image>.png``."""
    return Path(folder) / f"{Path(file_name).stem}.png"


def write_contours(path: str | Path, contours: np.ndarray) -> None:
    """Write a contour map, atomically.

    Args:
        path: the PNG; its folder is made.
        contours: (h, w) float in [0, 1], at any size.

    Raises:
        UserError: the file cannot be written.
    """
    gray = np.round(np.asarray(contours) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def read_contours(path: str | Path) -> np.ndarray:
    """A contour map (h, w) float32 in [0, 1], from a gray image.

    Raises:
        UserError: the file is missing or is no image.
    """
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("L"), dtype=np.float32) / 255
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        raise UserError(
            f"contour map {path} cannot be read ({error}): make it (tools/make_contours.py), name "
            "the folder of the contour maps, or set PROPOSALS.BUILTIN.CONTOURS to 'hed'"
        ) from error


def contours_from_file(image: np.ndarray, path: str | Path) -> ContourMaps:
    """The contour map of an image (h, w, 3), from a file of any size; see :func:`read_contours`."""
    values, size = read_contours(path), image.shape[1::-1]
    return ContourMaps.of(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR))
