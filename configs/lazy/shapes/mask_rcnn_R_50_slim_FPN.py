"""configs/shapes/mask_rcnn_R_50_slim_FPN.yaml: a slim Mask R-CNN on pseudo labels."""

from detectron2 import model_zoo
from detectron2.layers import ShapeSpec

from ..common.backbone import pixel_mean, pixel_std
from ..common.backbone import slim_resnet50 as _backbone
from ..common.data.pseudo_labels import dataloader
from ..common.optim import adamw as optimizer
from ..common.optim import one_cycle as lr_multiplier
from ..common.train import train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up = _backbone
model.backbone.bottom_up.stem.max_pool = True
model.backbone.bottom_up.stages.strides = [1, 2, 2, 2]
model.backbone.bottom_up.out_features = ["res2", "res3", "res4", "res5"]
model.backbone.out_channels = 64
model.backbone.norm = "BN"
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
model.proposal_generator.head.in_channels = 64
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = [500, 300]
model.proposal_generator.post_nms_topk = [200, 100]
model.roi_heads.num_classes = 5
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.input_shape = ShapeSpec(channels=64, height=7, width=7)
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=256)
model.roi_heads.mask_head.input_shape = ShapeSpec(channels=64, height=14, width=14)
model.roi_heads.mask_head.conv_dims = [64, 64, 64, 64, 64]
model.roi_heads.mask_head.conv_norm = "BN"
model.pixel_mean = pixel_mean
model.pixel_std = pixel_std
model.input_format = "RGB"

dataloader.train.dataset.source = "shapes_train"
dataloader.train.mapper.image_format = "RGB"
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 2
dataloader.test.dataset.names = "shapes_val_instances"
dataloader.train.mapper.augmentations[0].short_edge_length = [128]
dataloader.test.mapper.augmentations[0].short_edge_length = 128
for _split in (dataloader.train, dataloader.test):
    _split.mapper.augmentations[0].max_size = 128

optimizer.lr = 0.001

train.max_iter = 500
train.checkpointer.period = 250
