from detectron2.config import LazyCall as L

from wsis_d2.modeling import DensityPRM

from ..backbone import pixel_mean, pixel_std, resnet50

model = L(DensityPRM)(
    backbone=resnet50,
    in_feature="res5",
    num_classes=20,
    bias=True,
    upsample=1,
    window=3,
    peak_threshold="median",
    width_factor=1.5,
    cells=196.0,
    max_count=4,
    loss_weight=1.0,
    rank_weight=0.1,
    stage1_iters=0,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.stages.strides = [1, 2, 2, 2]
