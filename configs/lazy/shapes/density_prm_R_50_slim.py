"""configs/shapes/wise_counts/classifier.yaml."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.backbone import slim_resnet50 as _backbone
from ..common.data.image_counts import dataloader
from ..common.models.density_prm import model
from ..common.optim import adamw as optimizer
from ..common.optim import one_cycle as lr_multiplier
from ..common.train import train

model.backbone = _backbone
model.num_classes = 5
model.upsample = 4
model.width_factor = 6.0
model.cells = 256.0
model.loss_weight = 0.1
model.rank_weight = 1.0
model.stage1_iters = 300

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.train.num_workers = 2
dataloader.test.dataset.names = "shapes_val"

optimizer.params.head_multiplier = 3

train.max_iter = 600
train.checkpointer.period = 300
