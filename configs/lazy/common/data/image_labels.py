"""Images and class labels, for the classifiers."""

from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)

from wsis_d2.data import ImageLabelMapper, get_image_label_dicts
from wsis_d2.evaluation import MultiLabelEvaluator

dataloader = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_image_label_dicts)(names="voc_2012_train_aug"),
        mapper=L(ImageLabelMapper)(is_train=True, augmentations=[], image_format="RGB"),
        total_batch_size=16,
        aspect_ratio_grouping=False,
        num_workers=4,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="voc_2012_seg_val", filter_empty=False),
        mapper=L(ImageLabelMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers="${..train.num_workers}",
    ),
    "evaluator": L(MultiLabelEvaluator)(dataset_name="${..test.dataset.names}"),
}
