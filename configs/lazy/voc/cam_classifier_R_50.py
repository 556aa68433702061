"""configs/voc/irnet/classifier.yaml: five epochs of the 10,582 images of train_aug."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from PIL import Image

from wsis_d2.data import PaddedRandomCrop

from ..common.backbone import pixel_mean
from ..common.data.image_labels import dataloader
from ..common.models.cam_classifier import model
from ..common.optim import polynomial as lr_multiplier
from ..common.optim import sgd as optimizer
from ..common.train import train

dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.5, max_scale=1.0, target_height=640, target_width=640, interp=Image.BICUBIC
    ),
    L(T.RandomFlip)(horizontal=True),
    L(PaddedRandomCrop)(size=512, color=pixel_mean),
]

optimizer.lr = 0.1
optimizer.momentum = 1e-4  # see configs/Base-CAM.yaml
optimizer.params.head_multiplier = 10
optimizer.params.weight_decay_norm = 1e-4

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 3305
