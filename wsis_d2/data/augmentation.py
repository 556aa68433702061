"""Augmentations of the stages that see image-level labels alone (keys INPUT.IMAGE_LEVEL)."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image

from ..errors import UserError

__all__ = ["PaddedRandomCrop", "RandomHue", "RandomScale", "build_image_level_augmentation"]


class ColorPadTransform(T.PadTransform):
    """Pad an image with one color, and a label map with 255 (unknown)."""

    def __init__(self, x0: int, y0: int, x1: int, y1: int, color: Sequence[float]):
        """
        Args:
            x0, y0: pixels added on the left and at the top.
            x1, y1: pixels added on the right and at the bottom.
            color: value of each channel, rounded for images of integers.
        """
        super().__init__(x0, y0, x1, y1, seg_pad_value=255)
        self.color = tuple(color)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad an ``(H, W, C)`` image."""
        height, width, channels = img.shape
        color = np.asarray(self.color)
        if np.issubdtype(img.dtype, np.integer):
            color = color.round()
        padded = np.empty(
            (self.y0 + height + self.y1, self.x0 + width + self.x1, channels), dtype=img.dtype
        )
        padded[:] = color.astype(img.dtype)
        padded[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return padded


class PaddedRandomCrop(T.Augmentation):
    """A square window at a random position; where the image is smaller it lies in it at random.

    Source: the random crop of Ahn and Kwak (AffinityNet, CVPR 2018) and of IRNet (CVPR 2019). It
    pads normalised images with zeros, so here, before normalisation, the color is the pixel mean.
    """

    def __init__(self, size: int, color: Sequence[float]):
        """
        Args:
            size: side of the window in pixels.
            color: color outside of the image, in the channel order of the image.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        """The transform for an ``(H, W, C)`` image; its output is ``(size, size, C)``."""
        crop, pad = [], []  # (before, kept) and (before, after) along y and x
        for length in image.shape[:2]:
            surplus, lack = max(length - self.size, 0), max(self.size - length, 0)
            crop.append((_random_offset(surplus), min(length, self.size)))
            before = _random_offset(lack)
            pad.append((before, lack - before))
        (y, height), (x, width) = crop
        (top, bottom), (left, right) = pad
        return T.TransformList(
            [
                T.CropTransform(x, y, width, height),
                ColorPadTransform(left, top, right, bottom, self.color),
            ]
        )


class RandomScale(T.Augmentation):
    """Resize by a random factor: bicubic, label maps to the nearest label.

    Source: IRNet (CVPR 2019), which draws from 0.5 to 1.5.
    """

    def __init__(self, low: float, high: float):
        """
        Args:
            low, high: range of the factor, which is drawn uniformly.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an ``(H, W, C)`` image."""
        height, width = image.shape[:2]
        factor = self._rand_range(self.low, self.high)
        size = (max(1, round(length * factor)) for length in (height, width))
        return T.ResizeTransform(height, width, *size, Image.BICUBIC)


class RandomHue(T.Augmentation):
    """Turn the hue of every pixel by one random angle; gray stays gray.

    Source: AffinityNet (CVPR 2018), whose released code jitters the hue by 0.1 of the full circle.
    """

    def __init__(self, jitter: float, image_format: str):
        """
        Args:
            jitter: greatest turn to either side, as a part of the full circle, 0 to 0.5; it is
                drawn uniformly.
            image_format: "RGB" or "BGR", the channel order of the images.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an ``(H, W, 3)`` image, 0 to 255."""
        degrees = 360 * self._rand_range(-self.jitter, self.jitter)
        rgb = self.image_format == "RGB"
        to_hsv, back = (
            (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
            if rgb
            else (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR)
        )

        def turn(img: np.ndarray) -> np.ndarray:
            # In single precision: hues of whole degrees would band.
            hsv = cv2.cvtColor(img.astype(np.float32), to_hsv)
            hsv[..., 0] = (hsv[..., 0] + degrees) % 360
            turned = cv2.cvtColor(hsv, back)
            if np.issubdtype(img.dtype, np.integer):
                turned = turned.round().clip(0, 255)
            return turned.astype(img.dtype)

        return T.ColorTransform(turn)


def _random_offset(room: int) -> int:
    # Detectron2 seeds NumPy's global generator, anew in each worker, and its augmentations use it.
    return np.random.randint(room + 1)  # noqa: NPY002


def build_image_level_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations that a config asks for.

    In training: resize, flip (INPUT.RANDOM_FLIP), color jitter and, where CROP_SIZE is set and the
    size is not "square", a padded random crop. At test time: resize alone.

    Args:
        cfg: a config with the plugin's keys.
        is_train: training or test time.

    Returns:
        Augmentations, in order.

    Raises:
        UserError: INPUT.IMAGE_LEVEL holds a value that has no meaning.
    """
    keys = cfg.INPUT.IMAGE_LEVEL
    style = keys.RESIZE_TRAIN if is_train else keys.RESIZE_TEST
    augmentations = []
    if style == "longest_edge":
        shortest, longest = keys.LONGEST_EDGE_TRAIN if is_train else (keys.LONGEST_EDGE_TEST,) * 2
        if not 0 < shortest <= longest:
            raise UserError(
                f"INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN is ({shortest}, {longest}): give the least "
                "and the greatest length in pixels"
            )
        # Fits the image into a square whose side is a factor of the greatest length. Bicubic, as
        # IRNet resizes.
        augmentations.append(
            T.ResizeScale(shortest / longest, 1.0, longest, longest, interp=Image.BICUBIC)
        )
    elif style == "scale" and is_train:
        low, high = keys.SCALE_TRAIN
        if not 0 < low <= high:
            raise UserError(
                f"INPUT.IMAGE_LEVEL.SCALE_TRAIN is ({low}, {high}): give the least and the "
                "greatest factor"
            )
        augmentations.append(RandomScale(low, high))
    elif style == "square":
        augmentations.append(T.Resize(keys.SQUARE_SIZE))
    elif style != "none":
        styles = "'longest_edge', 'scale', 'square'" if is_train else "'longest_edge', 'square'"
        raise UserError(
            f"INPUT.IMAGE_LEVEL.RESIZE_{'TRAIN' if is_train else 'TEST'} is '{style}': choose "
            f"{styles} or 'none'"
        )
    if not is_train:
        return augmentations

    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    if keys.COLOR_JITTER:
        low, high = max(0.0, 1 - keys.COLOR_JITTER), 1 + keys.COLOR_JITTER
        augmentations += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            T.RandomSaturation(low, high),
        ]
    if keys.HUE_JITTER:
        if not 0 < keys.HUE_JITTER <= 0.5 or cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise UserError(
                f"INPUT.IMAGE_LEVEL.HUE_JITTER is {keys.HUE_JITTER} with INPUT.FORMAT "
                f"'{cfg.INPUT.FORMAT}': give a part of the color circle up to 0.5, for RGB or BGR"
            )
        augmentations.append(RandomHue(keys.HUE_JITTER, cfg.INPUT.FORMAT))
    if style != "square" and keys.CROP_SIZE:
        augmentations.append(PaddedRandomCrop(keys.CROP_SIZE, cfg.MODEL.PIXEL_MEAN))
    return augmentations
