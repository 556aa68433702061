"""configs/shapes/irnet/irnet.yaml, from the CAM classifier's weights."""

from ..common.backbone import slim_resnet50 as _backbone
from ..common.backbone import slim_resnet50_features as _features
from ..common.data.seeds import dataloader
from ..common.data.shapes import use_shapes
from ..common.models.irnet import model
from ..common.optim import adamw as optimizer
from ..common.optim import one_cycle as lr_multiplier
from ..common.train import train

model.backbone = _backbone
model.backbone.out_features = ["stem", "res2", "res3", "res4", "res5"]
model.backbone.freeze_at = 5
model.boundary_head.input_shape = _features
model.displacement_head.input_shape = _features
model.stride = 2
model.radius = 8
model.test_size = 0

use_shapes(dataloader)
dataloader.train.total_batch_size = 8

optimizer.lr = 0.003

train.max_iter = 300
train.checkpointer.period = 150
