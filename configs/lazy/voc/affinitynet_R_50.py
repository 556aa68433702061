"""configs/voc/affinitynet/affinitynet.yaml: eight epochs of train_aug, from its classifier."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from wsis_d2.data import PaddedRandomCrop, RandomHue

from ..common.backbone import pixel_mean
from ..common.data.seeds import dataloader
from ..common.models.affinitynet import model
from ..common.optim import polynomial as lr_multiplier
from ..common.optim import sgd as optimizer
from ..common.train import train

dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomSaturation)(intensity_min=0.7, intensity_max=1.3),
    L(RandomHue)(jitter=0.1, image_format="RGB"),
    L(PaddedRandomCrop)(size=448, color=pixel_mean),
]
dataloader.train.total_batch_size = 8

optimizer.lr = 0.1
optimizer.momentum = 5e-4  # the weight decay, see configs/Base-CAM.yaml
optimizer.weight_decay = 5e-4
optimizer.params.head_multiplier = 10
optimizer.params.weight_decay_norm = 5e-4
optimizer.params.bias_lr_factor = 2
optimizer.params.weight_decay_bias = 0.0

train.max_iter = 10576
