"""Images and the masks of a pseudo label file, for any instance segmentation model."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator

from wsis_d2.data import InstanceMapper, get_pseudo_label_dicts
from wsis_d2.evaluation import InstanceMaskEvaluator, PatientEvaluators

dataloader = {
    "train": L(build_detection_train_loader)(
        # tools/make_pseudo_labels.py writes the file.
        dataset=L(get_pseudo_label_dicts)(
            names="pseudo_labels",
            json_file="output/pseudo_labels.json",
            source="voc_2012_seg_train",
        ),
        mapper=L(InstanceMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[512], max_size=800, sample_style="choice"
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format="bitmask",  # pseudo masks are RLEs
        ),
        total_batch_size=4,
        num_workers=4,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names="voc_2012_seg_val_instances", filter_empty=False
        ),
        mapper=L(InstanceMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=512, max_size=800, sample_style="choice"),
            ],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers="${..train.num_workers}",
    ),
    "evaluator": L(PatientEvaluators)(
        evaluators=[
            L(COCOEvaluator)(dataset_name="${dataloader.test.dataset.names}"),
            L(InstanceMaskEvaluator)(dataset_name="${dataloader.test.dataset.names}"),
        ]
    ),
}
