"""Augmentation that depends on the seed and on the image's place in the run, on nothing else.

Then a run that was killed and resumed trains on the same crops and colours as an undisturbed one,
and nothing that draws random numbers beside the training changes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch.utils.data
from detectron2.utils import comm

from .changed_sampler import ChangedSampler, iterable_images

__all__ = ["mixed_seed", "seed_images"]

Loader = TypeVar("Loader", bound=Iterable)


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, 0 or more; any other choice of them gives an unrelated one."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_images(loader: Loader, seed: int) -> Loader:
    """Let a training loader seed all random numbers before it loads and augments an image.

    NumPy's, PyTorch's (on the CPU) and Python's own depend on the seed, the process's rank and the
    image's number among all that this process loads.

    Args:
        loader: made by :func:`detectron2.data.build_detection_train_loader` with a sampler, and not
            iterated over yet; another one is left as it is.
        seed: of the run; below 0 nothing is seeded.

    Returns:
        The loader, changed in place.
    """
    images = iterable_images(loader)
    if seed >= 0 and images is not None:
        images.sampler = ChangedSampler(images.sampler, _numbered)
        images.dataset = _SeededImages(images.dataset, seed)
    return loader


class _Numbered(int):
    """An image's index that knows its number in the stream of indices."""

    number: int


def _numbered(indices: Iterable[int]) -> Iterator[_Numbered]:
    for number, index in enumerate(indices):
        numbered = _Numbered(index)
        numbered.number = number
        yield numbered


class _SeededImages(torch.utils.data.Dataset):
    """Seeds before it gives an image."""

    def __init__(self, images: torch.utils.data.Dataset, seed: int):
        self.images = images
        self.seed = seed
        self.rank = comm.get_rank()  # workers do not know it

    def __len__(self) -> int:
        return len(self.images)

    @property
    def _dataset(self) -> Any:
        """What a :class:`MapDataset` maps."""
        return self.images._dataset

    def __getitem__(self, index: _Numbered) -> Any:
        seed = mixed_seed(self.seed, self.rank, 0, index.number)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (Detectron2's augmentation draws from it)
        torch.default_generator.manual_seed(seed)
        return self.images[index]
