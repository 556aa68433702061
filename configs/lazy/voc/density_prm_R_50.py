"""configs/voc/wise_counts/classifier.yaml: 70 epochs of train_aug."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..common.data.image_counts import dataloader
from ..common.models.density_prm import model
from ..common.optim import sgd as optimizer
from ..common.train import train

dataloader.train.mapper.augmentations = [L(T.Resize)(shape=448), L(T.RandomFlip)(horizontal=True)]
dataloader.test.mapper.augmentations = [L(T.Resize)(shape=448)]

model.stage1_iters = 13220

optimizer.lr = 0.01
optimizer.params.backbone_multiplier = 0.01

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 46280
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.5], milestones=[33050], num_updates=46280)
