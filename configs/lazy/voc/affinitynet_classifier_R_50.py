"""configs/voc/affinitynet/classifier.yaml: 15 epochs of train_aug."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from PIL import Image

from wsis_d2.data import PaddedRandomCrop, RandomHue

from ..common.backbone import pixel_mean
from .cam_classifier_R_50 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.5, max_scale=1.0, target_height=512, target_width=512, interp=Image.BICUBIC
    ),
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomSaturation)(intensity_min=0.7, intensity_max=1.3),
    L(RandomHue)(jitter=0.1, image_format="RGB"),
    L(PaddedRandomCrop)(size=448, color=pixel_mean),
]

model.backbone.stem.norm = model.backbone.stages.norm = "FrozenBN"  # see Base-AffinityNet.yaml

optimizer.momentum = 5e-4
optimizer.weight_decay = 5e-4
optimizer.params.weight_decay_norm = 5e-4
optimizer.params.bias_lr_factor = 2
optimizer.params.weight_decay_bias = 0.0

train.max_iter = 9915
