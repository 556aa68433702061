"""Workers of a loader: they end with the process that they load for, and warn like it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from detectron2.data.common import AspectRatioGroupedDataset
from torch.utils.data import DataLoader

from ..processes import end_with_parent

__all__ = ["ignore_harmless_warnings", "loader_with_workers", "prepare_workers"]

Loader = TypeVar("Loader", bound=Iterable)


def loader_with_workers(loader: Iterable) -> Iterable:
    """PyTorch's loader, below Detectron2's grouping by aspect ratio where there is that."""
    return loader.dataset if isinstance(loader, AspectRatioGroupedDataset) else loader


def ignore_harmless_warnings() -> None:
    """Spare the user's log what Detectron2 would have to mend, and what changes no result."""
    # pycocotools decodes RLE masks into arrays that cannot be written; Detectron2 copies them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def prepare_workers(loader: Loader) -> Loader:
    """Let the workers of a loader end with the process that iterates over it, and warn like it.

    PyTorch's workers look whether they have become orphans. But where a fork server has forked
    them, as it has in processes that another one forked, they are its children, and it lives as
    long as they do: after a SIGKILL, both would wait for ever.

    Args:
        loader: made by Detectron2, and not iterated over yet; one that is not PyTorch's is left as
            it is.

    Returns:
        The loader, changed in place.
    """
    workers = loader_with_workers(loader)
    if isinstance(workers, DataLoader):
        workers.worker_init_fn = _BeginWorker(workers.worker_init_fn)
    return loader


@dataclass(frozen=True)
class _BeginWorker:
    """Can be pickled, as workers that are no forks need it."""

    begin: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        end_with_parent()
        ignore_harmless_warnings()
        if self.begin is not None:
            self.begin(worker_id)
