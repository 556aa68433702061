"""The training images of a resumed run: those that an undisturbed one would see from there on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator

from detectron2.data.common import AspectRatioGroupedDataset

from .changed_sampler import ChangedSampler, iterable_images

__all__ = ["batches_from"]

logger = logging.getLogger(__name__)


def batches_from(loader: Iterable, start: int) -> Iterator[list[dict]]:
    """Iterate over a training loader as if ``start`` batches of it had been seen before.

    The indices of the earlier images are drawn, but their files are not read. For the same seed,
    number of processes and of workers the images are those of a run without interruption, batch by
    batch, with Detectron2's grouping by aspect ratio too. Their augmentation is the same where
    :func:`wsis_d2.data.seeded_loader.seed_images` seeds it, and another one elsewhere.

    Args:
        loader: made by :func:`detectron2.data.build_detection_train_loader`, with a sampler and
            without a function that collates. Its sampler is changed for good.
        start: batches that this process has seen.

    Returns:
        The batches; from the first one on where the loader is of another kind.
    """
    grouped = isinstance(loader, AspectRatioGroupedDataset)
    images = iterable_images(loader)
    if images is None:
        logger.warning(
            f"a {type(loader).__name__} cannot be taken up in the middle: the images of the first "
            "iterations come again"
        )
        return iter(loader)
    workers = loader.dataset if grouped else loader
    # A round: every worker has given a batch (or, to be grouped, a chunk of images).
    num_workers = max(1, workers.num_workers)
    if grouped:
        order = _LoadingOrder(num_workers, getattr(images, "shard_chunk_size", 1))
        images.sampler = ChangedSampler(
            images.sampler, _AfterGroups(images.dataset, loader.batch_size, start, order)
        )
        return iter(loader)
    rounds, rest = divmod(start, num_workers)
    images.sampler = ChangedSampler(
        images.sampler, _Skip(rounds * num_workers * workers.batch_size)
    )
    batches = iter(loader)
    for _ in range(rest):
        next(batches)
    return batches


class _Skip:
    def __init__(self, count: int):
        self.count = count

    def __call__(self, indices: Iterator[int]) -> Iterator[int]:
        return itertools.islice(indices, self.count, None)


class _LoadingOrder:
    """How workers that take turns mix a stream of which each has every n-th chunk."""

    def __init__(self, num_workers: int, chunk: int):
        self.size = num_workers * chunk
        self._order = [w * chunk + i for i in range(chunk) for w in range(num_workers)]

    def apply(self, indices: Iterator[int]) -> Iterator[int]:
        """The order in which the images of a sampler's indices come out."""
        while block := list(itertools.islice(indices, self.size)):
            yield from (block[i] for i in self._order)

    def invert(self, indices: Iterator[int]) -> Iterator[int]:
        """The indices that must go in for the images to come out in this order."""
        inverse = sorted(range(self.size), key=self._order.__getitem__)
        while block := list(itertools.islice(indices, self.size)):
            yield from (block[i] for i in inverse)


class _AfterGroups:
    """What is left to load when ``start`` batches of images of one orientation are complete."""

    def __init__(self, images, batch_size: int, start: int, order: _LoadingOrder):
        self.images = images
        self.batch_size = batch_size
        self.start = start
        self.order = order

    def __call__(self, indices: Iterator[int]) -> Iterator[int]:
        indices = self.order.apply(indices)
        is_wide: dict[int, bool] = {}
        groups: dict[bool, list[int]] = {True: [], False: []}
        batches = 0
        while batches < self.start:
            index = next(indices)
            if index not in is_wide:
                record = self.images._dataset[index]  # what the mapper would be given
                is_wide[index] = record["width"] > record["height"]
            group = groups[is_wide[index]]
            group.append(index)
            if len(group) == self.batch_size:
                group.clear()
                batches += 1
        # The incomplete groups, which are in no batch yet, come first.
        return self.order.invert(itertools.chain(groups[True], groups[False], indices))
