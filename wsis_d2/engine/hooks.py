"""What happens beside the iterations of training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import torch
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.utils.data import DataLoader

from ..data.seeded_loader import mixed_seed
from ..errors import UserError
from ..processes import Terminated, on_sigterm
from ..weights.checkpoint import WSISCheckpointer

logger = logging.getLogger(__name__)


class MeanDisplacement(HookBase):
    """Sets IRNet's ``mean_displacement`` after the last iteration of training.

    Source: Ahn et al., CVPR 2019, section 4.2: pairs tell displacements up to a constant, so their
    mean over the training images is subtracted. As published it is the mean of each image's mean,
    the zero padding to the network's input included; unlike there, images that are larger than it
    count whole, and the last ones too that do not fill a batch.

    It must come before the hook that writes the last checkpoint. It does not look at the
    iterations before: a run that was killed and resumed ends with the same mean.
    """

    def __init__(self, model: torch.nn.Module, build_loader: Callable[[], DataLoader]):
        """
        Args:
            model: an IRNet.
            build_loader: gives this process's share of the images to average over, one at a time
                and as at test time; it is called when training ends.
        """
        self.model = model
        self.build_loader = build_loader

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.update()

    def update(self) -> None:
        """Compute the mean, on all processes of the job, and store it in each one's model."""
        loader = self.build_loader()
        logger.info(f"Mean displacement of {len(loader.dataset)} images")
        with inference_context(self.model):
            mean = inference_on_dataset(self.model.raw_displacements, loader, _Mean())
        if not torch.isfinite(mean).all():
            raise UserError(
                "training diverged: displacements are no finite numbers after the last iteration; "
                "lower the learning rate"
            )
        self.model.mean_displacement.copy_(mean)
        logger.info(f"Mean displacement (dy, dx): {mean[0]:.3f}, {mean[1]:.3f} cells")


class _Mean(DatasetEvaluator):
    """The mean over all images of the mean over each one's cells, on every process."""

    def reset(self) -> None:
        # In double precision the shares of the processes make no difference.
        self.total = torch.zeros(2, dtype=torch.float64)
        self.num_images = 0

    def process(self, inputs: list[dict], outputs: list[torch.Tensor]) -> None:
        for displacement in outputs:
            self.total += displacement.double().mean((1, 2)).cpu()
            self.num_images += 1

    def evaluate(self) -> torch.Tensor:
        totals, counts = zip(*comm.all_gather((self.total, self.num_images)))
        return torch.stack(totals).sum(0) / sum(counts)


class SeededIterations(HookBase):
    """Seeds all random numbers before each iteration by its number: what a model draws (proposals
    to train on, dropout) is the same in a run that was killed and resumed, and does not depend on
    what drew in between (pictures, evaluations)."""

    def __init__(self, seed: int):
        """
        Args:
            seed: of the run, 0 or more.
        """
        self.seed = seed

    def before_step(self) -> None:
        seed_all_rng(mixed_seed(self.seed, comm.get_rank(), 1, self.trainer.iter))


class FinishedTraining(HookBase):
    """Makes the last checkpoint ``model_final.pth`` where no iteration is left to train.

    Detectron2 writes that file after the last iteration: a run that is killed on the way there,
    and resumed from the checkpoint of that iteration, would never have it.
    """

    def __init__(self, checkpointer: WSISCheckpointer):
        """
        Args:
            checkpointer: that of the training; it writes on the main process alone.
        """
        self.checkpointer = checkpointer

    def before_train(self) -> None:
        if 0 < self.trainer.max_iter <= self.trainer.start_iter:
            self.checkpointer.copy_last("model_final")


class StopOnSigterm(HookBase):
    """Writes a checkpoint and raises :class:`~wsis_d2.processes.Terminated` after the iteration in
    which a process of the job was sent SIGTERM.

    All processes have it, and stop after the same iteration. It comes after the hook that writes
    the checkpoints, whose last one it leaves as it is.
    """

    def __init__(self, checkpointer: WSISCheckpointer):
        """
        Args:
            checkpointer: that of the training; it writes on the main process alone.
        """
        self.checkpointer = checkpointer
        self._was_asked = False
        self._handlers = ExitStack()

    def before_train(self) -> None:
        self._handlers.enter_context(on_sigterm(self._ask))

    def _ask(self, *_) -> None:
        self._was_asked = True

    def after_step(self) -> None:
        if not any(comm.all_gather(self._was_asked)):
            return
        iteration = self.trainer.iter
        if iteration + 1 < self.trainer.max_iter:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        comm.synchronize()  # the end of any process may end them all
        raise Terminated

    def after_train(self) -> None:
        self._handlers.close()
