"""MATLAB files of versions 5 to 7 (MAT-files level 5), checked before SciPy reads them.

SciPy's parser, in C, trusts what a file says of its own sizes: a damaged one can end the process.
So the arrays that are wanted are gone through here first, and SciPy is given these alone.

A file is a header and a row of elements, each a tag (type, number of bytes) and its bytes, padded
to eight. The element of an array is a row of elements itself: flags, dimensions, name, and the
numbers or, in a cell array, the elements of its cells.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import pack, unpack_from
from typing import Any

from scipy.io import loadmat

# Of all arrays of a file together: 2,000 masks of 500 x 400 pixels as uint8 have 400 MB.
_MAX_BYTES = 2**29
_HEADER_BYTES = 128

# Types of elements.
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED, _UTF8 = 1, 5, 6, 14, 15, 16
_NUMBER_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
# Classes of arrays: cells, and double, single, (u)int8 .. (u)int64.
_CELL, _NUMERIC = 1, range(6, 16)
_COMPLEX = 0x08
# Cell arrays hold arrays, or cell arrays of one.
_MAX_DEPTH = 4
_MAX_DIMENSIONS = 32


def read_mat(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Read arrays of numbers, and cell arrays of such, from a MATLAB file.

    Args:
        path: the file.
        wanted: names of the variables to read.

    Returns:
        Each variable of the file by its name, as :func:`scipy.io.loadmat` gives it; None for those
        that are not wanted.

    Raises:
        NotImplementedError: the file is of version 7.3.
        ValueError: it is damaged, of version 4 or earlier, a wanted variable is neither numbers nor
            cells of numbers, or its arrays are too large.
        OSError: it cannot be read.
    """
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[_HEADER_BYTES - 2 : _HEADER_BYTES]))
    if order is None:
        raise ValueError("it is not a file of MATLAB 5 to 7")
    if unpack_from(f"{order}H", data, _HEADER_BYTES - 4)[0] >> 8 == 2:
        raise NotImplementedError("a file of version 7.3")
    names: list[str] = []
    # Not the file's own header, by which SciPy might take it for one of another version.
    arrays: list[bytes | memoryview] = [_header(order)]
    left = _MAX_BYTES
    for kind, element in _elements(data[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            ((kind, element),) = _elements(_decompress(element, left), order)
        left -= len(element)
        if left < 0:
            raise ValueError(f"its arrays have more than {_MAX_BYTES >> 20} MiB")
        if kind != _MATRIX:
            raise ValueError("it holds something that is no array")
        name = _check_header(element, order)
        names.append(name)
        if name in wanted:
            _check_array(element, order, name)
            arrays += [_tag(element, order), element]
    read = loadmat(io.BytesIO(b"".join(arrays)))
    return {name: read.get(name) for name in names}


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element of a row."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it ends within a tag")
        kind, size = unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            start = place + 4
            if size > 4:
                raise ValueError("a tag has more bytes than it can hold")
        if start + size > len(data):
            raise ValueError("it ends within an array")
        yield kind, data[start : start + size]
        is_padded = kind != _COMPRESSED
        place = max(place + 8, start + (-(-size // 8) * 8 if is_padded else size))


def _header(order: str) -> bytes:
    return b"MATLAB".ljust(_HEADER_BYTES - 4) + pack(f"{order}HH", 0x0100, 0x4D49)


def _tag(element: memoryview, order: str) -> bytes:
    return pack(f"{order}II", _MATRIX, len(element))


def _decompress(element: memoryview, limit: int) -> memoryview:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(element, limit)
    except zlib.error as error:
        raise ValueError(f"it cannot be decompressed: {error}") from None
    if not decompressor.eof:
        raise ValueError(f"it is cut off, or its arrays have more than {_MAX_BYTES >> 20} MiB")
    return memoryview(data)


def _check_header(element: memoryview, order: str) -> str:
    """Name of an array, whose flags, dimensions and name are as they must be."""
    if len(element) % 8:
        raise ValueError("the size of an array is not a multiple of 8")
    parts = _elements(element, order)
    try:
        (kind, flags), (dims_kind, dims), (name_kind, name) = (next(parts) for _ in range(3))
    except (StopIteration, RuntimeError):
        raise ValueError("an array has no flags, dimensions and name") from None
    if (kind, len(flags)) != (_UINT32, 8) or dims_kind != _INT32 or len(dims) % 4:
        raise ValueError("an array has no flags or no dimensions")
    if not 2 <= len(dims) // 4 <= _MAX_DIMENSIONS or name_kind not in (_INT8, _UTF8):
        raise ValueError("an array has no dimensions or no name")
    return bytes(name).decode("latin1")


def _check_array(element: memoryview, order: str, name: str, depth: int = 0) -> None:
    """Raise a ValueError unless an array is numbers or cells, as many as its dimensions say."""
    _check_header(element, order)
    (_, flags), (_, dims), _, *parts = _elements(element, order)
    (bits,) = unpack_from(f"{order}I", flags)
    array_class, is_complex = bits & 0xFF, (bits >> 8) & _COMPLEX
    sides = unpack_from(f"{order}{len(dims) // 4}i", dims)
    count = math.prod(sides)
    if min(sides) < 0:
        raise ValueError(f"{name} has dimensions below 0")
    if array_class == _CELL and depth < _MAX_DEPTH:
        if len(parts) != count or any(kind != _MATRIX for kind, _ in parts):
            raise ValueError(f"{name} has not as many cells as its dimensions say")
        for _, cell in parts:
            _check_array(cell, order, name, depth + 1)
    elif array_class in _NUMERIC and not is_complex:
        if len(parts) != 1 or len(parts[0][1]) != count * _NUMBER_BYTES.get(parts[0][0], -1):
            raise ValueError(f"{name} has not as many numbers as its dimensions say")
    else:
        raise ValueError(f"{name} is no array of numbers and no cell array of such")
