from detectron2.config import LazyCall as L

from wsis_d2.modeling import CAMClassifier

from ..backbone import pixel_mean, pixel_std, resnet50

model = L(CAMClassifier)(
    backbone=resnet50,
    in_feature="res5",
    num_classes=20,
    bias=False,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.freeze_at = 3  # no gradients in conv1, res2 and res3
model.backbone.stem.norm = model.backbone.stages.norm = "FixedBN"
