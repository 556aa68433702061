"""Images, class labels and lower counts, for DensityPRM."""

from detectron2.config import LazyCall as L

from wsis_d2.evaluation import CountEvaluator, MultiLabelEvaluator, PatientEvaluators

from .image_labels import dataloader

dataloader.train.dataset.max_count = 4
dataloader.train.mapper.max_count = "${..dataset.max_count}"
dataloader.test.mapper.max_count = "${...train.dataset.max_count}"
dataloader.evaluator = L(PatientEvaluators)(
    evaluators=[
        L(MultiLabelEvaluator)(dataset_name="${dataloader.test.dataset.names}"),
        L(CountEvaluator)(dataset_name="${dataloader.test.dataset.names}"),
    ]
)
