from detectron2.config import LazyCall as L

from wsis_d2.modeling import BoundaryHead, DisplacementHead, IRNet

from ..backbone import pixel_mean, pixel_std, resnet50, resnet50_features

model = L(IRNet)(
    backbone=resnet50,
    in_features=["stem", "res2", "res3", "res4", "res5"],
    boundary_head=L(BoundaryHead)(input_shape=resnet50_features, stride="${..stride}"),
    displacement_head=L(DisplacementHead)(input_shape=resnet50_features, stride="${..stride}"),
    stride=4,
    radius=10,
    test_size=512,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.out_features = ["stem", "res2", "res3", "res4", "res5"]
model.backbone.freeze_at = 5
