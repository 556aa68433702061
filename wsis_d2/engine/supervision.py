"""What a network learns from: five kinds of supervision, by their name in the config.

Each knows how its datasets are checked, loaded and evaluated. Trainer and stages ask for them here;
the report alone looks at ``DATASETS.SUPERVISION`` itself, to choose its pictures.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, SemSegEvaluator
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..data import (
    ImageLabelMapper,
    InstanceMapper,
    PseudoLabelMapper,
    SeedMapper,
    SemSegMapper,
    add_loss_weights,
    check_image_level_dataset,
    dataset_dicts,
    get_seed_dicts,
    training_classes,
)
from ..data.loader_workers import prepare_workers
from ..errors import UserError
from ..evaluation import (
    CountEvaluator,
    InstanceMaskEvaluator,
    MultiLabelEvaluator,
    PatientEvaluators,
)
from ..parallel import deal_images


class Supervision(ABC):
    """One kind of supervision.

    Args:
        cfg: of the stage.

    Attributes:
        max_count: the largest exact count of objects that networks see; None: they see no counts.
        folders: files and folders, beside the datasets', that training reads.
    """

    max_count: int | None = None
    folders: tuple[str, ...] = ()

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def check_config(self) -> None:  # noqa: B027  (most have nothing to look for)
        """Look in the config for what cannot be evaluated, or trained.

        Raises:
            UserError: says what.
        """

    def check_training_data(self) -> None:  # noqa: B027
        """Look in ``DATASETS.TRAIN``, whose datasets are registered, for what stops a training.

        Raises:
            UserError: says what.
        """

    @abstractmethod
    def mapper(self, is_train: bool) -> Callable[[dict], dict]:
        """From a dataset dict to the network's input."""

    @abstractmethod
    def train_loader(self) -> DataLoader:
        """Endless batches of ``DATASETS.TRAIN``."""

    def test_loader(self, dataset_name: str) -> DataLoader:
        """One image at a time, split over the processes."""
        return build_detection_test_loader(self.cfg, dataset_name, mapper=self.mapper(False))

    @abstractmethod
    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """What the predictions on a dataset are measured with."""

    def label_mapper(self, is_train: bool) -> ImageLabelMapper:
        """From a dataset dict to an image and its labels alone, with counts where they are the
        supervision: what label generators see, whatever their network was trained on."""
        return ImageLabelMapper(self.cfg, is_train=is_train, max_count=self.max_count)

    def label_loader(self, images: Sequence[dict]) -> DataLoader:
        """This process's share of the images to label, see :func:`.parallel.deal_images`."""
        share = deal_images(images, comm.get_world_size())[comm.get_rank()]
        loader = build_detection_test_loader(
            # Detectron2 cannot serialize an empty list: that of a process without an image.
            dataset=DatasetFromList(share, copy=False, serialize=bool(share)),
            mapper=self.label_mapper(is_train=False),
            sampler=range(len(share)),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )
        return prepare_workers(loader)

    def _output_dir(self, dataset_name: str) -> str:
        return os.path.join(self.cfg.OUTPUT_DIR, "inference", dataset_name)


class ImageLabels(Supervision):
    """Images and class labels, of any dataset; no mask or box passes. Evaluated by multi-label
    mAP."""

    need_counts = False

    def mapper(self, is_train: bool) -> ImageLabelMapper:
        """See :meth:`Supervision.mapper`."""
        return self.label_mapper(is_train)

    def train_loader(self) -> DataLoader:
        """See :meth:`Supervision.train_loader`."""
        dataset = [d for name in self.cfg.DATASETS.TRAIN for d in dataset_dicts(name)]
        check_image_level_dataset(dataset, training_classes(self.cfg), self.need_counts)
        return _train_loader(self.cfg, dataset, self.mapper(True))

    def test_loader(self, dataset_name: str) -> DataLoader:
        """See :meth:`Supervision.test_loader`."""
        return build_detection_test_loader(
            dataset=dataset_dicts(dataset_name),
            mapper=self.mapper(False),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )

    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """See :meth:`Supervision.evaluator`."""
        return MultiLabelEvaluator(dataset_name)


class ImageCounts(ImageLabels):
    """Lower counts of the objects beside the labels (Cholakkal et al., CVPR 2019). Evaluated by
    mAP and the mRMSE of the counts."""

    need_counts = True

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.max_count = cfg.DATASETS.MAX_COUNT

    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """See :meth:`Supervision.evaluator`."""
        return PatientEvaluators([MultiLabelEvaluator(dataset_name), CountEvaluator(dataset_name)])


class Seeds(Supervision):
    """Images and their seeds. What is trained on them is evaluated by the labels made with it."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.folders = (cfg.SEEDS.PATH,)

    def check_config(self) -> None:
        """See :meth:`Supervision.check_config`."""
        if self.cfg.DATASETS.TEST:
            raise UserError(
                f"DATASETS.TEST names {', '.join(self.cfg.DATASETS.TEST)}, but a model that is "
                "trained on seeds is evaluated by the labels that are made with it "
                "(tools/make_pseudo_labels.py): set DATASETS.TEST to ()"
            )

    def mapper(self, is_train: bool) -> SeedMapper:
        """See :meth:`Supervision.mapper`."""
        return SeedMapper(self.cfg, is_train=is_train)

    def train_loader(self) -> DataLoader:
        """See :meth:`Supervision.train_loader`."""
        dataset = get_seed_dicts(self.cfg.DATASETS.TRAIN, self.cfg.SEEDS.PATH)
        return _train_loader(self.cfg, dataset, self.mapper(True))

    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """There is none: :meth:`check_config` refuses test sets."""
        raise ValueError("a model that is trained on seeds has no evaluator")


class Masks(Supervision):
    """Instance masks, pseudo or true: stock Detectron2. Evaluated by COCO AP and VOC-style AP."""

    def check_training_data(self) -> None:
        """See :meth:`Supervision.check_training_data`."""
        if not any(
            not annotation.get("iscrowd", 0)
            for name in self.cfg.DATASETS.TRAIN
            for d in dataset_dicts(name)
            for annotation in d.get("annotations", ())
        ):
            raise UserError(
                f"there is no instance in {', '.join(self.cfg.DATASETS.TRAIN)} to train on: if "
                "these are pseudo labels, make them with a lower PSEUDO_LABELS.PEAK_THRESHOLD or "
                "MIN_SCORE"
            )

    def mapper(self, is_train: bool) -> InstanceMapper:
        """See :meth:`Supervision.mapper`."""
        return InstanceMapper(self.cfg, is_train=is_train)

    def train_loader(self) -> DataLoader:
        """Stock, and on demand with what a network should know of noisy masks."""
        cfg, pseudo = self.cfg, self.cfg.DATASETS.PSEUDO
        if not (pseudo.SCORE_WEIGHTS or pseudo.IGNORE_REGIONS):
            return build_detection_train_loader(cfg, mapper=self.mapper(True))
        if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":  # others have no such parts
            raise UserError(
                "DATASETS.PSEUDO.SCORE_WEIGHTS and IGNORE_REGIONS would do nothing with "
                f"{cfg.MODEL.META_ARCHITECTURE}: set them to False, or train a Mask R-CNN"
            )
        parts = (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME)
        if parts != ("NoiseAwareROIHeads", "NoiseAwareMaskHead"):
            raise UserError(
                "DATASETS.PSEUDO.SCORE_WEIGHTS and IGNORE_REGIONS would do nothing with "
                f"{' and '.join(parts)}: lay configs/Base-NoiseAware.yaml over the config, or set "
                "them to False"
            )
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        if pseudo.SCORE_WEIGHTS:
            dataset = add_loss_weights(dataset)
        mapper = PseudoLabelMapper(cfg, is_train=True)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)

    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """See :meth:`Supervision.evaluator`."""
        output_dir, settings = self._output_dir(dataset_name), self.cfg.TEST.INSTANCE_MASKS
        return PatientEvaluators(
            [
                COCOEvaluator(dataset_name, output_dir=output_dir),
                InstanceMaskEvaluator(
                    dataset_name,
                    output_dir=output_dir,
                    iou_thresholds=settings.IOU_THRESHOLDS,
                    area_bounds=settings.AREA_BOUNDS,
                ),
            ]
        )


class SemSeg(Supervision):
    """Semantic label maps, pseudo or true: stock semantic segmentation. Evaluated by mIoU."""

    def mapper(self, is_train: bool) -> SemSegMapper:
        """See :meth:`Supervision.mapper`."""
        return SemSegMapper(self.cfg, is_train=is_train)

    def train_loader(self) -> DataLoader:
        """See :meth:`Supervision.train_loader`."""
        return build_detection_train_loader(self.cfg, mapper=self.mapper(True))

    def evaluator(self, dataset_name: str) -> DatasetEvaluator:
        """See :meth:`Supervision.evaluator`."""
        return SemSegEvaluator(dataset_name, output_dir=self._output_dir(dataset_name))


#: By their name in ``DATASETS.SUPERVISION``.
SUPERVISIONS: dict[str, type[Supervision]] = {
    "masks": Masks,
    "image_labels": ImageLabels,
    "image_counts": ImageCounts,
    "seeds": Seeds,
    "sem_seg": SemSeg,
}


def build_supervision(cfg: CfgNode) -> Supervision:
    """The supervision ``cfg.DATASETS.SUPERVISION``.

    Raises:
        UserError: there is none of that name.
    """
    name = cfg.DATASETS.SUPERVISION
    if name not in SUPERVISIONS:
        raise UserError(
            f"DATASETS.SUPERVISION is {name!r}: choose one of {', '.join(SUPERVISIONS)}"
        )
    return SUPERVISIONS[name](cfg)


def _train_loader(cfg: CfgNode, dataset: list[dict], mapper: Callable[[dict], dict]) -> DataLoader:
    return build_detection_train_loader(
        dataset=dataset,
        mapper=mapper,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
