"""configs/voc/affinitynet/classifier.yaml: 15 epochs of train_aug."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from PIL import Image

from .affinitynet_R_50 import dataloader as _seeds
from .affinitynet_R_50 import optimizer
from .cam_classifier_R_50 import dataloader, lr_multiplier, model, train

dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.5, max_scale=1.0, target_height=512, target_width=512, interp=Image.BICUBIC
    ),
    *_seeds.train.mapper.augmentations,
]

model.backbone.stem.norm = model.backbone.stages.norm = "FrozenBN"  # see Base-AffinityNet.yaml

train.max_iter = 9915
