"""Detectron2's trainer for every stage: classifiers on labels, Mask R-CNN on pseudo masks."""

from __future__ import annotations

import logging
import os
import weakref

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    create_ddp_model,
    hooks,
)
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    SemSegEvaluator,
)
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..data import (
    ImageLabelMapper,
    InstanceMapper,
    PseudoLabelMapper,
    SeedMapper,
    SemSegMapper,
    add_loss_weights,
    check_image_level_dataset,
    get_seed_dicts,
)
from ..data.resumed_loader import batches_from
from ..errors import UserError, look_up
from ..evaluation import (
    CountEvaluator,
    InstanceMaskEvaluator,
    MultiLabelEvaluator,
    PatientEvaluators,
)
from ..labeling import ProposalRefinement
from ..proposals import build_proposal_source
from .checkpoint import WSISCheckpointer
from .cli import one_sentence
from .hooks import MeanDisplacement
from .mixed_precision import build_train_loop
from .solver import build_lr_scheduler, build_optimizer

logger = logging.getLogger(__name__)


def _shorten_user_error(record: logging.LogRecord) -> bool:
    """A log filter: what a user can mend is logged as its sentence, without a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.msg, record.args = f"Training stopped: {one_sentence(record.exc_info[1])}", ()
        record.exc_info = None
    return True


# Detectron2's training loop logs the traceback of every exception.
logging.getLogger(TrainerBase.__module__).addFilter(_shorten_user_error)


class Trainer(DefaultTrainer):
    """:class:`DefaultTrainer` that also trains from image labels, and on CPU processes.

    With ``DATASETS.SUPERVISION: image_labels`` it sees images and class labels alone and evaluates
    by multi-label mAP; with ``image_counts`` lower counts too, evaluated by mRMSE beside; with
    ``seeds`` images and their seeds, without evaluation; with ``masks`` it is stock Detectron2 with
    COCO AP and VOC-style AP, and with ``sem_seg`` stock semantic segmentation with mIoU.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's constructor is written for CUDA: DDP gets a device id, AMP a GPU. The
        # parts and their order are its own.
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        ddp_options = {} if on_gpu else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp_options)
        self._trainer = build_train_loop(
            model, data_loader, optimizer, cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = WSISCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            meta_architecture=cfg.MODEL.META_ARCHITECTURE,
            classes=class_names(cfg),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """See :class:`DefaultTrainer`; a resumed run also goes on in the data where it was."""
        super().resume_or_load(resume)
        if 0 < self.start_iter < self.max_iter:
            resume_data(self._trainer, self.start_iter, self.cfg.SEED)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The meta-architecture of the config (not printed: it is in the config)."""
        look_up(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """See :func:`wsis_d2.engine.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        """See :func:`wsis_d2.engine.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """A stock loader; with image labels as supervision no mask or box passes it."""
        if cfg.DATASETS.SUPERVISION == "sem_seg":
            return build_detection_train_loader(cfg, mapper=SemSegMapper(cfg, is_train=True))
        if cfg.DATASETS.SUPERVISION == "masks":
            return _build_mask_loader(cfg)
        if cfg.DATASETS.SUPERVISION == "seeds":
            dataset = get_seed_dicts(cfg.DATASETS.TRAIN, cfg.SEEDS.PATH)
            mapper = SeedMapper(cfg, is_train=True)
        else:
            dataset, mapper = training_images(cfg), ImageLabelMapper(cfg, is_train=True)
            need_counts = cfg.DATASETS.SUPERVISION == "image_counts"
            check_image_level_dataset(dataset, class_names(cfg), need_counts)
        return build_detection_train_loader(
            dataset=dataset,
            mapper=mapper,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=False,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """One image at a time, split over the processes."""
        if cfg.DATASETS.SUPERVISION == "sem_seg":
            mapper = SemSegMapper(cfg, is_train=False)
            return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        if cfg.DATASETS.SUPERVISION not in ("image_labels", "image_counts"):
            mapper = InstanceMapper(cfg, is_train=False)
            return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return build_detection_test_loader(
            dataset=dataset_dicts(dataset_name),
            mapper=ImageLabelMapper(cfg, is_train=False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Multi-label mAP for classifiers and mRMSE of their counts, COCO AP and VOC-style AP for
        masks, mIoU for maps."""
        if cfg.DATASETS.SUPERVISION == "image_labels":
            return MultiLabelEvaluator(dataset_name)
        if cfg.DATASETS.SUPERVISION == "image_counts":
            return PatientEvaluators(
                [MultiLabelEvaluator(dataset_name), CountEvaluator(dataset_name)]
            )
        output_dir = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        if cfg.DATASETS.SUPERVISION == "sem_seg":
            return SemSegEvaluator(dataset_name, output_dir=output_dir)
        return PatientEvaluators(
            [
                COCOEvaluator(dataset_name, output_dir=output_dir),
                build_instance_mask_evaluator(cfg, dataset_name, output_dir),
            ]
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """Stock; with ``TEST.REFINE_WITH_PROPOSALS`` the model's masks snap to proposals first."""
        if cfg.TEST.REFINE_WITH_PROPOSALS:
            proposals = build_proposal_source(cfg)
            model = ProposalRefinement(model, proposals, cfg.TEST.REFINE_MIN_IOU)
        return super().test(cfg, model, evaluators)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, and what a model needs when its training ends."""
        registered = super().build_hooks()
        model = getattr(self.model, "module", self.model)  # out of its DDP wrapper
        if not hasattr(model, "mean_displacement"):
            return registered
        for name in self.cfg.DATASETS.MEAN_DISPLACEMENT:
            require_dataset(name)  # before the training, not after it
        # Before the last checkpoint is written; only the main process has a hook that writes it.
        writers = (hooks.PeriodicCheckpointer, hooks.EvalHook)
        position = next(i for i, hook in enumerate(registered) if isinstance(hook, writers))
        registered.insert(position, MeanDisplacement(model, self._build_mean_image_loader))
        return registered

    def _build_mean_image_loader(self) -> torch.utils.data.DataLoader:
        names = self.cfg.DATASETS.MEAN_DISPLACEMENT or self.cfg.DATASETS.TRAIN
        return build_detection_test_loader(
            dataset=[d for name in names for d in dataset_dicts(name)],
            mapper=ImageLabelMapper(self.cfg, is_train=False),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )


def resume_data(trainer: SimpleTrainer, start_iter: int, seed: int) -> None:
    """Let a trainer go on with the images that an undisturbed run would see from ``start_iter`` on.

    See :func:`wsis_d2.data.resumed_loader.batches_from`. All random numbers of this process are
    seeded anew, by the iteration too, so that augmentation does not repeat that of the first
    iterations.

    Args:
        trainer: Its loader was built after the same seeding as that of the first run.
        start_iter: The first iteration that is to run.
        seed: Of the run; below 0 nothing is seeded (and in Detectron2 0.6 the order of the images
            is another one anyway).
    """
    if seed >= 0:
        mixed = np.random.SeedSequence([seed, comm.get_rank(), start_iter]).generate_state(1)
        seed_all_rng(int(mixed[0]))
    # Detectron2 0.6 makes the iterator with the trainer, its main branch on the first step.
    is_lazy = hasattr(trainer, "_data_loader_iter_obj")
    name = "_data_loader_iter_obj" if is_lazy else "_data_loader_iter"
    setattr(trainer, name, None)  # the workers of the old one end
    setattr(trainer, name, batches_from(trainer.data_loader, start_iter))


def _build_mask_loader(cfg: CfgNode) -> torch.utils.data.DataLoader:
    """Stock instance segmentation, and on demand what it should know of noisy masks."""
    pseudo = cfg.DATASETS.PSEUDO
    if not (pseudo.SCORE_WEIGHTS or pseudo.IGNORE_REGIONS):
        return build_detection_train_loader(cfg, mapper=InstanceMapper(cfg, is_train=True))
    parts = (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME)
    if parts != ("NoiseAwareROIHeads", "NoiseAwareMaskHead"):
        raise UserError(
            "DATASETS.PSEUDO.SCORE_WEIGHTS and IGNORE_REGIONS would do nothing with "
            f"{' and '.join(parts)}: lay configs/Base-NoiseAware.yaml over the config, or set them "
            "to False"
        )
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    if pseudo.SCORE_WEIGHTS:
        dataset = add_loss_weights(dataset)
    mapper = PseudoLabelMapper(cfg, is_train=True)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)


def build_instance_mask_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | None = None
) -> InstanceMaskEvaluator:
    """The VOC-style evaluator with the thresholds of ``cfg.TEST.INSTANCE_MASKS``."""
    return InstanceMaskEvaluator(
        dataset_name,
        output_dir=output_dir,
        iou_thresholds=cfg.TEST.INSTANCE_MASKS.IOU_THRESHOLDS,
        area_bounds=cfg.TEST.INSTANCE_MASKS.AREA_BOUNDS,
    )


def training_images(cfg: CfgNode) -> list[dict]:
    """The dicts of all datasets in ``DATASETS.TRAIN``."""
    return [d for name in cfg.DATASETS.TRAIN for d in dataset_dicts(name)]


def dataset_dicts(name: str) -> list[dict]:
    """The registered dataset's dicts; see :func:`require_dataset`."""
    require_dataset(name)
    return DatasetCatalog.get(name)


def require_dataset(name: str) -> None:
    """Check that a dataset of this name is registered.

    Raises:
        UserError: It is not.
    """
    if name not in DatasetCatalog.list():
        raise UserError(
            f"dataset '{name}' is not registered: check DATASETS.TRAIN/TEST, or name its files in "
            "DATASETS.OWN_TRAIN, DATASETS.OWN_TEST or DATASETS.PSEUDO"
        )


def class_names(cfg: CfgNode) -> list[str]:
    """Names of the training dataset's classes, [] where it has none.

    A dataset of label maps has the background too, as its first class.
    """
    return dataset_classes(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else []


def dataset_classes(name: str) -> list[str]:
    """Names of a registered dataset's classes; see :func:`class_names`."""
    if not _known_classes(name):
        dataset_dicts(name)  # some datasets know their classes only once they are loaded
    return _known_classes(name)


def _known_classes(dataset_name: str) -> list[str]:
    metadata = MetadataCatalog.get(dataset_name)
    return list(metadata.get("thing_classes") or metadata.get("stuff_classes") or [])
