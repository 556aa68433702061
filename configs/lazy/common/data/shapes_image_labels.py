"""The Shapes benchmark's images and class labels."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .image_labels import dataloader

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.train.num_workers = 2
dataloader.test.dataset.names = "shapes_val"
