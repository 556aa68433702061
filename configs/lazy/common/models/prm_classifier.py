from detectron2.config import LazyCall as L

from wsis_d2.modeling import PRMClassifier

from ..backbone import pixel_mean, pixel_std, resnet50

model = L(PRMClassifier)(
    backbone=resnet50,
    in_feature="res5",
    num_classes=20,
    bias=True,
    upsample=8,
    window=3,
    peak_threshold="median",
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.stages.strides = [1, 2, 2, 2]
