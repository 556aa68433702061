"""The order of a training loader's images, changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch.utils.data
from detectron2.data.common import ToIterableDataset

from .loader_workers import loader_with_workers

__all__ = ["ChangedSampler", "iterable_images", "num_training_images"]


class ChangedSampler(torch.utils.data.Sampler):
    """The indices of a sampler, changed by a function of the whole stream."""

    def __init__(
        self,
        sampler: torch.utils.data.Sampler,
        change: Callable[[Iterator[int]], Iterable[int]],
    ):
        self.sampler = sampler
        self.change = change

    def __iter__(self) -> Iterator[int]:
        return iter(self.change(iter(self.sampler)))


def iterable_images(loader: Iterable) -> ToIterableDataset | None:
    """What gives a loader its images in the order of a sampler, which may be replaced there.

    Args:
        loader: made by :func:`detectron2.data.build_detection_train_loader`; None comes of another.
    """
    images = getattr(loader_with_workers(loader), "dataset", None)
    return images if isinstance(images, ToIterableDataset) else None


def num_training_images(loader: Iterable) -> int | None:
    """How many different images a training loader gives, again and again; see
    :func:`iterable_images`."""
    images = iterable_images(loader)
    return None if images is None else len(images.dataset)
