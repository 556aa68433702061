"""configs/voc/wise_counts/classifier.yaml: 70 epochs of train_aug."""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..common.data.image_counts import dataloader
from ..common.models.density_prm import model
from .prm_classifier_R_50 import dataloader as _image_labels
from .prm_classifier_R_50 import optimizer, train

dataloader.train.mapper.augmentations = _image_labels.train.mapper.augmentations
dataloader.test.mapper.augmentations = _image_labels.test.mapper.augmentations

model.stage1_iters = 13220

train.max_iter = 46280
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.5], milestones=[33050], num_updates=46280)
