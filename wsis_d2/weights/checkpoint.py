"""Checkpoints that say what they are, and are read without trusting them."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from ..errors import UserError, one_sentence, os_error
from ..files import write_text
from .mask2former import is_mask2former, read_mask2former
from .pretrained import CONTAINERS, convert_checkpoint_of_others, report_loaded

#: Key of a checkpoint under which the description of its model is kept.
DESCRIPTION_KEY = "wsis_d2"

#: What the ``.pkl`` files of Detectron2's model zoo consist of: arrays, numbers, dicts.
_SAFE_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE_GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)


class WSISCheckpointer(DetectionCheckpointer):
    """:class:`DetectionCheckpointer` with a description of the model in every file.

    Args:
        model: the model to save or load.
        save_dir: folder of the checkpoints.
        meta_architecture: name of the model's meta-architecture.
        classes: class names in the order of the model's outputs.
        exact: whether a loaded file must hold every weight of the model (label generation,
            evaluation) or may be a start for another model (training from a backbone's weights).
        checkpointables: as in fvcore's ``Checkpointer``.

    Files are written atomically; ``.pth`` files are read with ``weights_only``, ``.pkl`` files by
    an unpickler that knows arrays only and ``.safetensors`` by their own library, a Mask2Former of
    ``transformers`` by that. Without ``exact`` weights of other programs start the backbone, see
    :mod:`.pretrained`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        meta_architecture: str = "",
        classes: Sequence[str] = (),
        exact: bool = False,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.meta_architecture = meta_architecture
        self.classes = list(classes)
        self.exact = exact
        self._path = ""
        self._last_good = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and make it the last checkpoint.

        Raises:
            UserError: a weight is no finite number, or the file cannot be written; those that are
                there stay as they are.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        self._check_finite(kwargs.get("iteration"))
        data = {"model": self.model.state_dict()}
        data |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        data[DESCRIPTION_KEY] = {
            "meta_architecture": self.meta_architecture,
            "classes": self.classes,
        }
        data |= kwargs
        self._write(name, lambda file: torch.save(data, file))

    def copy_last(self, name: str) -> None:
        """Write ``<save_dir>/<name>.pth`` with what the last checkpoint holds; see :meth:`save`."""
        last = self.get_checkpoint_file()
        if self.save_to_disk and os.path.basename(last) != f"{name}.pth":
            with open(last, "rb") as source:
                self._write(name, lambda file: shutil.copyfileobj(source, file))

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with open(path + ".tmp", "wb") as file:
                write(file)
            os.replace(path + ".tmp", path)
        except Exception as error:
            with suppress(OSError):
                os.unlink(path + ".tmp")
            cause = os_error(error)
            if cause is None:
                raise
            raise UserError(
                f"checkpoint '{path}' cannot be written ({cause.strerror}); {self.last_good()}; "
                "mend that, then run the same command with --resume"
            ) from error
        self.tag_last_checkpoint(os.path.basename(path))
        self._last_good = path

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """See fvcore's ``Checkpointer``.

        Raises:
            UserError: see :meth:`load`.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        last = self.get_checkpoint_file()
        try:
            loaded = self.load(last)
        except UserError as error:
            raise UserError(
                f"{one_sentence(error)}; to go on from an earlier checkpoint, write its name into "
                f"'{os.path.join(self.save_dir, 'last_checkpoint')}'"
            ) from error
        self._last_good = last
        return loaded

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name a file of ``save_dir`` as the last checkpoint, which a kill leaves whole."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def last_good(self) -> str:
        """For messages: where training may go on from."""
        if not self._last_good:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is '{self._last_good}'"

    def _check_finite(self, iteration: int | None) -> None:
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                when = "" if iteration is None else f" after iteration {iteration}"
                raise UserError(
                    f"training diverged: '{name}' holds numbers that are not finite{when}; "
                    f"{self.last_good()}; lower the learning rate, or look at the images and labels"
                )

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file, or ``model.safetensors`` of a folder.

        Raises:
            UserError: where the file is missing, is no checkpoint, fits nothing of the model,
                belongs to other classes or, with ``exact``, to another method.
        """
        if path and os.path.isdir(path):  # as transformers saves models
            path = os.path.join(path, "model.safetensors")
        self._path = path
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(
                f"checkpoint {path} does not exist: check MODEL.WEIGHTS, or train the model first"
            )
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:  # a download's errors too
            raise UserError(
                f"checkpoint {path} cannot be fetched or read ({error}): check the network, or "
                "name a file in MODEL.WEIGHTS ('' starts from random weights)"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            if filename.endswith(".pkl"):
                loaded = self._load_model_zoo_file(filename)
            elif filename.endswith(".safetensors"):
                loaded = self._load_safetensors(filename)
            else:
                _check_not_blown_up(filename)
                with _plain_arguments_allowed():
                    loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except (OSError, UserError):
            raise
        except Exception as error:  # noqa: BLE001  (a damaged pickle may raise nearly anything)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty file"
            raise UserError(
                f"{filename} cannot be read as a checkpoint ({reason}): it may be damaged or of "
                "another program"
            ) from error
        if not isinstance(loaded, dict):
            raise self._no_checkpoint(filename, loaded)
        container = next((k for k in CONTAINERS if isinstance(loaded.get(k), dict)), None)
        weights = loaded if container is None else loaded[container]
        if not weights:
            raise UserError(f"{filename} holds no weights: it is no checkpoint, or an empty one")
        for name, value in weights.items():
            is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
            if not is_array and not isinstance(value, torch.Tensor):
                raise self._no_checkpoint(filename, value)
            if not isinstance(name, str):
                raise self._no_checkpoint(filename, name)
        # What stands beside another program's weights (its optimiser, its arguments) is its own.
        return loaded if container == "model" else {"model": weights}

    @staticmethod
    def _no_checkpoint(filename: str, found: Any) -> UserError:
        return UserError(
            f"{filename} is no checkpoint of this program: it holds a {type(found).__name__} where "
            "weights are expected"
        )

    @staticmethod
    def _load_safetensors(filename: str) -> dict[str, Any]:
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(
                f"{filename} is read with safetensors, which is not installed: pip install "
                "safetensors"
            ) from error
        if is_mask2former(filename):
            description = {"meta_architecture": "HFMask2Former", "classes": []}
            return {"model": read_mask2former(filename), DESCRIPTION_KEY: description}
        return load_file(filename)

    @staticmethod
    def _load_model_zoo_file(filename: str) -> dict[str, Any]:
        with open(filename, "rb") as file:
            data = _ArrayUnpickler(file, encoding="latin1").load()
        if "model" in data and "__author__" in data:
            return data
        weights = data.get("blobs", data)  # Caffe2: detection models wrap theirs in "blobs"
        weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        description = checkpoint.get(DESCRIPTION_KEY, {})
        if not _is_description(description):
            raise self._no_checkpoint(self._path, description)
        self._check_description(description)
        if not self.exact and DESCRIPTION_KEY not in checkpoint:
            convert_checkpoint_of_others(checkpoint, self.model, self._path)
        elif not self.exact and description.get("meta_architecture") != self.meta_architecture:
            _use_backbone_alone(checkpoint)
        incompatible = super()._load_model(checkpoint)
        if self.exact:
            self._check_complete(incompatible)
        else:
            unfit = [key for key, *_ in incompatible.incorrect_shapes]
            report_loaded(self._path, self.model, [*incompatible.missing_keys, *unfit])
        return incompatible

    def _check_description(self, description: dict[str, Any]) -> None:
        architecture = description.get("meta_architecture", "")
        same_method = architecture == self.meta_architecture
        if self.exact and self.meta_architecture and architecture and not same_method:
            raise UserError(
                f"checkpoint {self._path} is a {architecture}, but the config asks for a "
                f"{self.meta_architecture}: use the config that it was trained with, or a "
                "checkpoint of this method"
            )
        if description.get("classes") and self.classes and (self.exact or same_method):
            difference = _first_difference(description["classes"], self.classes)
            if difference:
                raise UserError(
                    f"checkpoint {self._path} was trained for other classes than the dataset's "
                    f"({difference}): train a classifier on this dataset, or choose the dataset "
                    "that the checkpoint belongs to"
                )

    def _check_complete(self, incompatible: Any) -> None:
        if incompatible.incorrect_shapes:
            key, found, expected = incompatible.incorrect_shapes[0]
            raise UserError(
                f"checkpoint {self._path} does not fit the model: '{key}' is {found} in the file "
                f"and {expected} in the model; check the number of classes and the backbone's size"
            )
        missing = [k for k in incompatible.missing_keys if "num_batches_tracked" not in k]
        if missing:
            raise UserError(
                f"checkpoint {self._path} lacks {len(missing)} of the model's weights (first: "
                f"'{missing[0]}'): it belongs to another method or backbone"
            )


def _use_backbone_alone(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint of one of our methods a start for another, as ImageNet weights are.

    Detectron2 then finds the backbone by its parameters' names wherever the other model keeps it
    (below an FPN, say).
    """
    prefix = "backbone."
    weights = checkpoint["model"]
    if any(k.startswith(prefix) for k in weights):
        checkpoint["model"] = {
            k.removeprefix(prefix).removeprefix("bottom_up."): v
            for k, v in weights.items()
            if k.startswith(prefix)
        }
        checkpoint["matching_heuristics"] = True


def _plain_arguments_allowed() -> Any:
    """Let ``torch.load`` read the command line arguments that DINO's checkpoints hold: a record."""
    allow = getattr(torch.serialization, "safe_globals", None)  # from torch 2.5 on
    return allow([argparse.Namespace]) if allow else nullcontext()


def _check_not_blown_up(filename: str) -> None:
    """Raise a ValueError for an archive that grows as it is read: torch.save does not compress."""
    if zipfile.is_zipfile(filename):
        with zipfile.ZipFile(filename) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > 10 * os.path.getsize(filename):
            raise ValueError(f"it would be {size} bytes in memory")


def _is_description(value: Any) -> bool:
    """Whether ``value`` may be what :meth:`WSISCheckpointer.save` says of a model."""
    if not isinstance(value, dict) or not isinstance(value.get("meta_architecture", ""), str):
        return False
    classes = value.get("classes", [])
    return isinstance(classes, list) and all(isinstance(name, str) for name in classes)


def _first_difference(found: list[str], expected: list[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} classes instead of {len(expected)}"
    for index, (a, b) in enumerate(zip(found, expected)):
        if a != b:
            return f"class {index} is '{a}' instead of '{b}'"
    return ""


def load_trained(network: torch.nn.Module, cfg: CfgNode, classes: Sequence[str]) -> None:
    """Give a network that makes cues or labels the weights that ``MODEL.WEIGHTS`` names, all of it.

    Raises:
        UserError: no weights, or weights of other classes or of another method.
    """
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty: name the checkpoint of the trained network")
    WSISCheckpointer(
        network, meta_architecture=cfg.MODEL.META_ARCHITECTURE, classes=classes, exact=True
    ).load(cfg.MODEL.WEIGHTS)
