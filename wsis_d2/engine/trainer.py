"""Detectron2's trainer for every stage: classifiers on labels, Mask R-CNN on pseudo masks."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm

from ..data import dataset_dicts, require_dataset, training_classes
from ..data.changed_sampler import num_training_images
from ..data.loader_workers import prepare_workers
from ..data.seeded_loader import seed_images
from ..errors import explain, look_up
from ..labeling import ProposalRefinement, build_prompter
from ..proposals import build_proposal_source
from ..weights.checkpoint import WSISCheckpointer
from .solver import build_lr_scheduler, build_optimizer, limit_epochs
from .supervision import build_supervision
from .train_loop import (
    build_distributed_loop,
    insert_mean_displacement,
    insert_seeded_iterations,
    insert_stops,
    insert_training_pictures,
    resume_data,
    stop_at_divergence,
    unwrapped,
)

logger = logging.getLogger(__name__)


def _shorten_user_error(record: logging.LogRecord) -> bool:
    """A log filter: what a user can mend is logged as its sentence, without a traceback."""
    message = explain(record.exc_info[1]) if record.exc_info else ""
    if message:
        record.msg, record.args, record.exc_info = f"Training stopped: {message}", (), None
    return True


# Detectron2's training loop logs the traceback of every exception.
logging.getLogger(TrainerBase.__module__).addFilter(_shorten_user_error)


class Trainer(DefaultTrainer):
    """:class:`DefaultTrainer` for every kind of supervision, and on CPU processes.

    What it loads and how it evaluates is up to ``DATASETS.SUPERVISION``, see
    :mod:`wsis_d2.engine.supervision`; with ``masks`` it is stock Detectron2.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's constructor is written for CUDA: DDP gets a device id, AMP a GPU. The
        # parts and their order are its own.
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        data_loader = self.build_train_loader(cfg)
        cfg = limit_epochs(cfg, num_training_images(data_loader))
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = build_distributed_loop(
            model,
            data_loader,
            optimizer,
            cfg.MODEL.DEVICE,
            cfg.SOLVER.AMP.ENABLED,
            broadcast_buffers=False,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(cfg, self.model, trainer=weakref.proxy(self))
        stop_at_divergence(self._trainer, self.checkpointer)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """See :class:`DefaultTrainer`; a resumed run also goes on in the data where it was."""
        super().resume_or_load(resume)
        resume_data(self._trainer, self.start_iter, self.max_iter, self.cfg.SEED)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the training, the optimizer's moments among it.

        Detectron2 0.6 forgets these, so that a resumed run would go another way; its main branch
        keeps them as here.
        """
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; checkpoints of Detectron2 0.6 have no optimizer."""
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The meta-architecture of the config (not printed: it is in the config)."""
        look_up(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
        if cfg.VIS_PERIOD > 0 and not comm.is_main_process():
            # Detectron2's models draw on every process; without a writer pictures would pile up.
            cfg = cfg.clone()
            cfg.defrost()
            cfg.VIS_PERIOD = 0
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
        """See :meth:`Supervision.train_loader`; its images are seeded one by one."""
        loader = seed_images(build_supervision(cfg).train_loader(), cfg.SEED)
        return prepare_workers(loader)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """See :meth:`Supervision.test_loader`."""
        return prepare_workers(build_supervision(cfg).test_loader(dataset_name))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """See :meth:`Supervision.evaluator`."""
        return build_supervision(cfg).evaluator(dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """Stock; with ``TEST.REFINE_WITH_PROPOSALS`` the model's masks snap to proposals first."""
        if cfg.TEST.REFINE_WITH_PROPOSALS:
            proposals = build_proposal_source(cfg)
            prompter = build_prompter(cfg, proposals)
            model = ProposalRefinement(model, proposals, cfg.TEST.REFINE_MIN_IOU, prompter)
        return super().test(cfg, model, evaluators)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, and those of this package."""
        registered = super().build_hooks()
        if hasattr(unwrapped(self.model), "mean_displacement"):
            for name in self.cfg.DATASETS.MEAN_DISPLACEMENT:
                require_dataset(name)  # before the training, not after it
        insert_mean_displacement(registered, self.model, self._build_mean_image_loader)
        insert_stops(registered, self.checkpointer)
        insert_training_pictures(registered, self.model, self.cfg.VIS_PERIOD, self.cfg.INPUT.FORMAT)
        insert_seeded_iterations(registered, self.cfg.SEED)
        return registered

    def _build_mean_image_loader(self) -> torch.utils.data.DataLoader:
        names = self.cfg.DATASETS.MEAN_DISPLACEMENT or self.cfg.DATASETS.TRAIN
        loader = build_detection_test_loader(
            dataset=[d for name in names for d in dataset_dicts(name)],
            mapper=build_supervision(self.cfg).label_mapper(is_train=False),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )
        return prepare_workers(loader)


def build_checkpointer(cfg: CfgNode, model: torch.nn.Module, **options: Any) -> WSISCheckpointer:
    """The checkpointer of the config's model in ``OUTPUT_DIR``; it takes ``options`` too."""
    return WSISCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=training_classes(cfg),
        **options,
    )
