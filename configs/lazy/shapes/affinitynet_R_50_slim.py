"""configs/shapes/affinitynet/affinitynet.yaml, from the CAM classifier's weights."""

from ..common.backbone import slim_resnet50 as _backbone
from ..common.data.seeds import dataloader
from ..common.data.shapes import use_shapes
from ..common.models.affinitynet import model
from ..common.optim import adamw as optimizer
from ..common.optim import one_cycle as lr_multiplier
from ..common.train import train

model.backbone = _backbone
model.backbone.out_features = ["res3", "res4", "res5"]
model.backbone.freeze_at = 2
model.input_shape.channels = [128, 256, 512]
model.input_shape.strides = [4, 8, 8]
model.stride = 4

use_shapes(dataloader)

optimizer.lr = 0.001
optimizer.params.head_multiplier = 3

train.max_iter = 300
train.checkpointer.period = 150
