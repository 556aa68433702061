"""Pictures of what each step sees: response maps, peaks, peak responses, masks, label maps.

Every function takes an RGB picture, (H, W, 3) uint8, and returns a new one. With ``scale`` the
result is that many times larger, and everything on it is drawn at the resolution of the result, so
outlines and labels stay crisp on a tiny picture; :func:`panel_scale` gives the factor that brings
pictures of any size to about the same panel. Coordinates are always those of the given picture.
Colors depend on their index alone: the same input gives the same bytes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..layers import UNKNOWN
from ..structures import decode_mask, to_rle

GOLDEN_RATIO = (5**0.5 - 1) / 2


def instance_colors(indices: Sequence[int]) -> np.ndarray:
    """One vivid color per index: hues a golden ratio apart, so that neighbours differ clearly.

    Args:
        indices: K non-negative integers; equal integers get equal colors.

    Returns:
        (K, 3) uint8 RGB.
    """
    colors = [
        # Every second round of the hue circle is a little paler, which tells near hues apart.
        colorsys.hsv_to_rgb(
            (0.02 + int(i) * GOLDEN_RATIO) % 1.0, 0.78 - 0.22 * (int(i) // 8 % 2), 1.0
        )
        for i in indices
    ]
    return (np.array(colors).reshape(-1, 3) * 255).round().astype(np.uint8)


def panel_scale(height: int, width: int, short_side: int = 256) -> float:
    """The ``scale`` at which a picture's short side is about ``short_side`` pixels.

    Enlarging takes the nearest whole factor, so that a mask's pixels stay squares of equal size.
    """
    scale = short_side / min(height, width)
    return float(round(scale)) if scale >= 1.5 else min(scale, 1.0)


def resize_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize a picture (H, W, 3) uint8 by ``scale``; a copy where that changes nothing."""
    _check_image(image)
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image.copy()
    # Area averaging does not alias on the way down; cubic keeps edges on the way up.
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )


def draw_heatmap(
    image: np.ndarray,
    heat: np.ndarray,
    alpha: float = 0.65,
    *,
    maximum: float | None = None,
    cmap: str = "turbo",
    scale: float = 1.0,
) -> np.ndarray:
    """Lay a map of non-negative values over a picture, the more opaque the higher the value.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (h, w) float >= 0 of any resolution; it is resized bilinearly to the picture.
        alpha: opacity from a quarter of the maximum on, in [0, 1]; it falls to 0 at value 0, so
            that the picture stays visible, unchanged, where there is no response.
        maximum: the value shown as the hottest color; the map's own maximum by default.
        cmap: a matplotlib colormap.
        scale: see the module.
    """
    canvas = resize_image(image, scale)
    heat = _resize_maps(_check_maps(heat, 2)[None], canvas.shape[:2])[0]
    maximum = heat.max(initial=0) if maximum is None else maximum
    if maximum <= 0:
        return canvas
    heat = np.clip(heat / maximum, 0, 1)
    color = matplotlib.colormaps[cmap](heat)[..., :3] * 255
    return _blend(canvas, color, alpha * np.minimum(heat * 4, 1)[..., None])


def draw_peaks(
    image: np.ndarray,
    points: np.ndarray,
    class_ids: Sequence[int],
    scores: Sequence[float] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    color_ids: Sequence[int] | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Mark the peaks of the class response maps.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (P, 2) of y, x in pixels of ``image``; whole numbers are centers of pixels.
        class_ids: P class ids.
        scores: P scores, written beside the marks.
        class_names: the names of all classes, written beside the marks.
        color_ids: P integers that choose the colors; ``class_ids`` by default. ``range(P)`` gives
            each peak the color that its response has in :func:`draw_peak_responses`.
        scale: see the module.
    """
    canvas = resize_image(image, scale)
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    _check_lengths(len(points), class_ids=class_ids, scores=scores, color_ids=color_ids)
    if not len(points):
        return canvas
    colors = instance_colors(class_ids if color_ids is None else color_ids)
    factor = np.array(canvas.shape[:2]) / image.shape[:2]
    centers = (points + 0.5) * factor - 0.5
    radius = max(3, round(5 * _unit(canvas.shape[:2])))
    for (y, x), color in zip(centers, colors):
        # cv2 takes fixed-point coordinates here: 4 bits below the pixel.
        center = (round(x * 16), round(y * 16))
        for r, value in (
            (radius + 2, (0, 0, 0)),
            (radius + 1, (255, 255, 255)),
            (radius - 1, color),
        ):
            cv2.circle(
                canvas, center, r * 16, [int(v) for v in value], cv2.FILLED, cv2.LINE_AA, shift=4
            )
    numbers = None if scores is None else [f"{float(score):.1f}" for score in scores]
    texts = _label_texts(class_ids, class_names, numbers)
    reach = radius + 3
    boxes = [(x - reach, y - reach, x + reach, y + reach) for y, x in centers]
    return _draw_labels(canvas, texts, boxes, colors)


def draw_peak_responses(
    image: np.ndarray,
    responses: np.ndarray,
    *,
    color_ids: Sequence[int] | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Show which pixels each peak comes from, every peak in its own hue on the darkened picture.

    The square root of a response is shown, as a share of its 99.5th percentile: a few pixels carry
    most of the relevance, and the rest of the object would be invisible on a linear scale.

    Args:
        image: (H, W, 3) uint8 RGB.
        responses: (P, h, w) float >= 0, the peak response maps, of any resolution.
        color_ids: P integers that choose the hues; the index of the peak by default.
        scale: see the module.
    """
    canvas = resize_image(image, scale)
    gray = canvas.astype(np.float64).mean(axis=2, keepdims=True) * 0.3
    light = np.repeat(gray, 3, axis=2)
    responses = _check_maps(responses, 3)
    color_ids = range(len(responses)) if color_ids is None else color_ids
    _check_lengths(len(responses), color_ids=color_ids)
    for response, color in zip(responses, instance_colors(color_ids)):
        response = _resize_maps(response[None], canvas.shape[:2])[0]
        if response.any():
            reference = np.quantile(response[response > 0], 0.995)
            light += np.sqrt(np.minimum(response / reference, 1))[..., None] * color
    return np.clip(light, 0, 255).round().astype(np.uint8)


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray | Sequence[Mapping],
    class_ids: Sequence[int],
    scores: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    color_ids: Sequence[int] | None = None,
    alpha: float = 0.45,
    scale: float = 1.0,
) -> np.ndarray:
    """Fill each instance with a translucent color of its own, outline it and name it.

    Large instances are drawn first, so that small ones stay visible on top of them. Pixels outside
    of all masks are unchanged, but for the labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, or N COCO RLE dicts.
        class_ids: N class ids.
        scores: N scores in [0, 1], shown in percent in the labels.
        class_names: the names of all classes; without them nothing is written.
        color_ids: N integers that choose the colors; the index of the instance by default.
        alpha: opacity of the fill, in [0, 1].
        scale: see the module.
    """
    canvas = resize_image(image, scale)
    shape = canvas.shape[:2]
    masks = [_resize_labels(_to_bool(mask), shape) for mask in masks]
    color_ids = range(len(masks)) if color_ids is None else color_ids
    _check_lengths(len(masks), class_ids=class_ids, scores=scores, color_ids=color_ids)
    colors = instance_colors(color_ids)

    order = sorted(range(len(masks)), key=lambda i: -int(masks[i].sum()))
    order = [i for i in order if masks[i].any()]
    for i in order:
        canvas = _blend(canvas, colors[i], alpha * masks[i][..., None])
    for i in order:
        canvas[_inner_outline(masks[i], _line_width(shape))] = colors[i]
    if class_names is None or not order:
        return canvas
    numbers = None if scores is None else [f"{100 * float(score):.0f}" for score in scores]
    texts = _label_texts(class_ids, class_names, numbers)
    boxes = [_bounding_box(masks[i]) for i in order]
    return _draw_labels(canvas, [texts[i] for i in order], boxes, colors[order])


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    alpha: float = 0.55,
    scale: float = 1.0,
) -> np.ndarray:
    """Color a semantic label map; unknown pixels are hatched, background is left as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers: 0 background, c + 1 class c, 255 unknown.
        class_names: the names of all classes, written on the largest region of each.
        alpha: opacity, in [0, 1].
        scale: see the module.
    """
    canvas = resize_image(image, scale)
    shape = canvas.shape[:2]
    labels = _resize_labels(np.asarray(labels).astype(np.int32), shape)
    present = [int(v) for v in np.unique(labels) if v not in (0, UNKNOWN)]
    colors = instance_colors([v - 1 for v in present])
    unknown = labels == UNKNOWN
    stripes = (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // 4 % 2).astype(bool)
    canvas = _blend(canvas, np.full(3, 128), 0.5 * (unknown & stripes)[..., None])
    boxes = []
    for value, color in zip(present, colors):
        region = labels == value
        canvas = _blend(canvas, color, alpha * region[..., None])
        canvas[_inner_outline(region, _line_width(shape))] = color
        boxes.append(_bounding_box(_largest_component(region)))
    if class_names is None:
        return canvas
    return _draw_labels(canvas, [class_names[v - 1] for v in present], boxes, colors)


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")


def _check_maps(maps: np.ndarray, ndim: int) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != ndim:
        raise ValueError(f"expected a map of {ndim} dimensions, got shape {maps.shape}")
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise ValueError("expected finite values >= 0")
    return maps


def _check_lengths(count: int, **sequences: Sequence | None) -> None:
    for name, sequence in sequences.items():
        if sequence is not None and len(sequence) != count:
            raise ValueError(f"expected {count} {name}, got {len(sequence)}")


def _resize_maps(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (K, h, w) float maps bilinearly to (K, H, W)."""
    return np.stack(
        [cv2.resize(m, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) for m in maps]
    )


def _resize_labels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (h, w) bool or int32 to (H, W), each pixel keeping one of the given values."""
    as_int = labels.astype(np.int32) if labels.dtype != bool else labels.astype(np.uint8)
    # The "exact" variant samples at the centers of pixels, as the picture's own resizing does.
    resized = cv2.resize(as_int, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(labels.dtype)


def _to_bool(mask: np.ndarray | Mapping) -> np.ndarray:
    if not isinstance(mask, Mapping):
        return np.asarray(mask).astype(bool)
    return decode_mask(to_rle(mask))


def _blend(image: np.ndarray, color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (image + alpha * (color - image.astype(np.float64))).round().astype(np.uint8)


def _unit(shape: tuple[int, int]) -> float:
    """The size of marks: by the width, since panels of one width stand below each other."""
    height, width = shape
    return min(width / 256, height / 128)


def _line_width(shape: tuple[int, int]) -> int:
    return max(1, round(1.7 * _unit(shape)))


def _inner_outline(mask: np.ndarray, width: int) -> np.ndarray:
    """The mask's own pixels nearer than ``width`` to its outside; the picture's rim is no edge."""
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(
        mask.astype(np.uint8),
        kernel,
        iterations=width,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=1,
    )
    return mask & ~inside.astype(bool)


def _bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a mask that has a pixel."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + width, y + height


def _largest_component(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def _label_texts(
    class_ids: Sequence[int],
    class_names: Sequence[str] | None,
    numbers: Sequence[str] | None,
) -> list[str]:
    """Name and number of each thing, as far as they are known; [] where neither is."""
    names = [] if class_names is None else [str(class_names[int(c)]) for c in class_ids]
    if names and numbers:
        return [f"{name} {number}" for name, number in zip(names, numbers)]
    return names or list(numbers or [])


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries this font along, so that labels look the same on every machine.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )


def _draw_labels(
    canvas: np.ndarray,
    texts: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]],
    colors: np.ndarray,
) -> np.ndarray:
    """Write each text in or at its box (x0, y0, x1, y1), where it hides least.

    What a place hides is the share of the text covering earlier texts plus the share of each box
    that it covers: so texts stand inside of large things and beside small ones.
    """
    height, width = canvas.shape[:2]
    font = _font(max(9, round(12 * _unit((height, width)))))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for text, (x0, y0, x1, y1), color in zip(texts, boxes, colors):
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        w, h = right - left + 5, bottom - top + 5
        center_x, center_y = (x0 + x1 - w) / 2, (y0 + y1 - h) / 2
        corners = [
            *((x0, y0), (x0, y0 - h), (x1, center_y), (x0 - w, center_y), (x0, y1)),
            *((x1 - w, y1 - h), (x1 - w, y0), (x0, y1 - h), (center_x, center_y)),
        ]
        places = []
        for x, y in corners:
            x, y = (
                round(min(max(x, 0), max(width - w, 0))),
                round(min(max(y, 0), max(height - h, 0))),
            )
            places.append((x, y, x + w, y + h))
        place = min(
            places,
            key=lambda p: (
                sum(_overlap(p, t) for t in taken) / _area(p)
                + sum(_overlap(p, b) / _area(b) for b in boxes)
            ),
        )
        taken.append(place)
        fill = tuple(int(v) for v in color)
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=fill)
        # The luma of ITU-R BT.601 decides whether black or white reads better.
        ink = "black" if color @ np.array([0.299, 0.587, 0.114]) > 110 else "white"
        draw.text((place[0] + 2 - left, place[1] + 2 - top), text, font=font, fill=ink)
    return np.asarray(picture).copy()


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area that two boxes (x0, y0, x1, y1) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
