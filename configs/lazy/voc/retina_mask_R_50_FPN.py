"""configs/voc/retina_mask_R_50_FPN.yaml: RetinaMask on pseudo labels."""

from ..common.models.retina_mask import model
from .mask_rcnn_R_50_FPN import dataloader, lr_multiplier, optimizer, train

model.num_classes = 20
optimizer.lr = 0.0025
