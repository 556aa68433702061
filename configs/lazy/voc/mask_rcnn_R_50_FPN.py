"""configs/voc/mask_rcnn_R_50_FPN.yaml: Detectron2's own Mask R-CNN on pseudo labels."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..common.data.pseudo_labels import dataloader
from ..common.optim import sgd as optimizer
from ..common.train import train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
model.roi_heads.num_classes = 20

optimizer.lr = 0.01

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 18000
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[12000, 16000], num_updates=18000
    ),
    warmup_factor=0.001,
    warmup_length=1000 / 18000,
)
