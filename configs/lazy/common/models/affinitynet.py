from detectron2.config import LazyCall as L

from wsis_d2.modeling import AffinityNet, feature_shapes

from ..backbone import pixel_mean, pixel_std, resnet50

model = L(AffinityNet)(
    backbone=resnet50,
    input_shape=L(feature_shapes)(
        names=["res3", "res4", "res5"], channels=[512, 1024, 2048], strides=[8, 16, 16]
    ),
    channels=[64, 128, 256],
    stride=8,
    radius=5,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.out_features = ["res3", "res4", "res5"]
model.backbone.freeze_at = 2
