"""RetinaMask: Detectron2's own RetinaNet, with a mask head and another matcher and box loss."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from wsis_d2.layers import SelfAdjustingSmoothL1
from wsis_d2.modeling import BestMatcher, RetinaMask

model = model_zoo.get_config("common/models/retinanet.py").model
model.update(
    _target_=RetinaMask,
    anchor_matcher=L(BestMatcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], min_iou=0.0),
    box_loss=L(SelfAdjustingSmoothL1)(num_coordinates=4, beta=0.11, momentum=0.9),
    box_loss_weight=0.25,
    mask_in_features=["p3", "p4", "p5"],
    mask_pooler=L(ROIPooler)(
        output_size=14, scales=[1 / 8, 1 / 16, 1 / 32], sampling_ratio=2, pooler_type="ROIAlignV2"
    ),
    mask_head=L(MaskRCNNConvUpsampleHead)(
        input_shape=ShapeSpec(channels=256, height=14, width=14),
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256, 256],
    ),
    mask_train_detections=100,
    mask_iou_threshold=0.5,
    test_nms_thresh=0.4,
)
model.box2box_transform.weights = [10.0, 10.0, 5.0, 5.0]
model.backbone.bottom_up.freeze_at = 2
