"""configs/shapes/wise_counts/classifier.yaml."""

from ..common.backbone import slim_resnet50 as _backbone
from ..common.data.image_counts import dataloader
from ..common.data.shapes import use_shapes
from ..common.models.density_prm import model
from .prm_classifier_R_50_slim import lr_multiplier, optimizer, train

model.backbone = _backbone
model.num_classes = 5
model.upsample = 4
model.width_factor = 6.0
model.cells = 256.0
model.loss_weight = 0.1
model.rank_weight = 1.0
model.stage1_iters = 300

use_shapes(dataloader)

optimizer.params.head_multiplier = 3
