"""Pairs of neighbouring pixels and the straight paths between them (IRNet, section 4.1)."""

from __future__ import annotations

import functools


@functools.lru_cache
def half_disk(radius: int) -> tuple[tuple[int, int], ...]:
    """Offsets (dy, dx) to the neighbours at a distance below ``radius``, one of every pair.

    First those in the same row to the right, then those in the rows below: (0, x) for
    0 < x < radius, and (y, x) for y > 0 with x^2 + y^2 < radius^2.

    Raises:
        ValueError: ``radius`` is below 2, so that there is no pair.
    """
    if radius < 2:
        raise ValueError(f"radius must be at least 2 to have any pair, got {radius}")
    row = [(0, x) for x in range(1, radius)]
    below = [
        (y, x)
        for y in range(1, radius)
        for x in range(-radius + 1, radius)
        if x * x + y * y < radius * radius
    ]
    return (*row, *below)


@functools.lru_cache
def path_pixels(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    """Pixels (y, x) on the path from (0, 0) to (dy, dx), both ends included.

    These are the pixels of the bounding rectangle whose distance from the line through the two
    ends is below 1, farthest from (0, 0) first.
    """
    rows = range(min(0, dy), max(0, dy) + 1)
    columns = range(min(0, dx), max(0, dx) + 1)
    length_squared = dy * dy + dx * dx
    pixels = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < length_squared]
    return tuple(sorted(pixels, key=lambda p: -abs(p[0]) - abs(p[1])))
