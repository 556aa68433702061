"""configs/voc/irnet/irnet.yaml: three epochs of train_aug, from the CAM classifier's weights."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from wsis_d2.data import PaddedRandomCrop, RandomScale

from ..common.backbone import pixel_mean
from ..common.data.seeds import dataloader
from ..common.models.irnet import model
from ..common.optim import polynomial as lr_multiplier
from ..common.optim import sgd as optimizer
from ..common.train import train

dataloader.train.mapper.augmentations = [
    L(RandomScale)(low=0.5, high=1.5),
    L(T.RandomFlip)(horizontal=True),
    L(PaddedRandomCrop)(size=512, color=pixel_mean),
]
dataloader.train.total_batch_size = 32
dataloader.train_images.dataset.names = "voc_2012_seg_train"

optimizer.lr = 0.1
optimizer.momentum = 1e-4  # see configs/Base-CAM.yaml
optimizer.params.displacement_multiplier = 10
optimizer.params.weight_decay_norm = 1e-4

train.max_iter = 990
