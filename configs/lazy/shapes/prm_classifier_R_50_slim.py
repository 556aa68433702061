"""configs/shapes/wise/classifier.yaml."""

from ..common.backbone import slim_resnet50 as _backbone
from ..common.data.image_labels import dataloader
from ..common.data.shapes import use_shapes
from ..common.models.prm_classifier import model
from ..common.optim import adamw as optimizer
from ..common.optim import one_cycle as lr_multiplier
from ..common.train import train

model.backbone = _backbone
model.num_classes = 5
model.upsample = 4

use_shapes(dataloader)

train.max_iter = 600
train.checkpointer.period = 300
