"""configs/shapes/retina_mask_R_50_slim_FPN.yaml: a slim RetinaMask on pseudo labels."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ..common.models.retina_mask import model
from .mask_rcnn_R_50_slim_FPN import dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_R_50_slim_FPN import model as _mask_rcnn

model.backbone = _mask_rcnn.backbone
# Objects are 16 to 88 pixels wide: boxes from strides 8 to 32, masks from stride 4.
model.head_in_features = ["p3", "p4", "p5"]
model.head.input_shape = [ShapeSpec(channels=64)] * 3
model.head.conv_dims = [64, 64, 64, 64]
model.head.norm = "BN"
model.anchor_generator.sizes = [[16.0, 20.2, 25.4], [32.0, 40.3, 50.8], [64.0, 80.6, 101.6]]
model.anchor_generator.strides = [8, 16, 32]
model.mask_in_features = ["p2"]
model.mask_pooler.scales = [1 / 4]
model.mask_head.input_shape = ShapeSpec(channels=64, height=14, width=14)
model.mask_head.conv_dims = [64, 64, 64, 64, 64]
model.mask_head.conv_norm = "BN"
model.mask_train_detections = 16
model.num_classes = 5
model.pixel_mean = _mask_rcnn.pixel_mean
model.pixel_std = _mask_rcnn.pixel_std
model.input_format = "RGB"
