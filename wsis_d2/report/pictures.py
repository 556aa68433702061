"""Pictures inside of a page."""

from __future__ import annotations

import base64

import cv2
import numpy as np


def data_uri(image: np.ndarray, quality: int = 88) -> str:
    """A picture as a data: address, in the format that takes less room.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: of JPEG, in 0 .. 100.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    bgr = np.ascontiguousarray(image[..., ::-1])
    # Full color resolution: thin colored outlines smear when it is halved, JPEG's default.
    jpeg_options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    _, jpeg = cv2.imencode(".jpg", bgr, jpeg_options)
    _, png = cv2.imencode(".png", bgr)
    kind, data = min((("png", png), ("jpeg", jpeg)), key=lambda item: len(item[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
