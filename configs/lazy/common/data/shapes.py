"""The Shapes benchmark, in place of PASCAL VOC."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L


def use_shapes(dataloader):
    """Change the dataloaders of image labels, counts or seeds, in place."""
    dataloader.train.dataset.names = "shapes_train"
    dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
    dataloader.train.num_workers = 2
    if "test" in dataloader:
        dataloader.test.dataset.names = "shapes_val"
