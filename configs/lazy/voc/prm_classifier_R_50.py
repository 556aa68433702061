"""configs/voc/wise/classifier.yaml: 20 epochs of train_aug."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.data.image_labels import dataloader
from ..common.models.prm_classifier import model
from ..common.optim import constant as lr_multiplier
from ..common.optim import sgd as optimizer
from ..common.train import train

dataloader.train.mapper.augmentations = [L(T.Resize)(shape=448), L(T.RandomFlip)(horizontal=True)]
dataloader.test.mapper.augmentations = [L(T.Resize)(shape=448)]

optimizer.lr = 0.01
optimizer.params.backbone_multiplier = 0.01

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 13220
