"""From command line arguments to a frozen config, a writable output folder, logs and seeds."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..allocator import keep_freed_memory
from ..config import add_wsis_config, check_counts
from ..data import register_builtin_datasets, register_own_datasets, training_classes
from ..data.loader_workers import ignore_harmless_warnings
from ..errors import UserError
from ..files import check_writable_folder, parse_yaml, write_text
from ..folder_lock import lock_folder

logger = logging.getLogger(__name__)


def load_config(config_file: str, opts: list[str] | None = None) -> CfgNode:
    """Detectron2's defaults + the plugin's + ``config_file`` + ``KEY VALUE`` pairs.

    The keys of Detectron2's DeepLab and PointRend are known where these projects are installed. The
    modules of ``IMPORTS`` are imported. The device is the CPU where there is no CUDA device.
    Datasets that the config names by their files are registered. ``NUM_CLASSES: 0`` of
    ``MODEL.ROI_HEADS``, ``MODEL.RETINANET``, ``MODEL.MASK2FORMER`` and ``MODEL.POINT_HEAD`` becomes
    the training dataset's number of classes, and that of ``MODEL.SEM_SEG_HEAD`` its number with the
    background.

    Raises:
        UserError: missing file, unknown key, value of the wrong type, a module that cannot be
            imported.
    """
    cfg = merged_config(config_file, opts)
    _import_modules(cfg.IMPORTS)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.DATASETS.KEEP_DIFFICULT:
        register_builtin_datasets(keep_difficult=False)
    register_own_datasets(cfg)
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(training_classes(cfg))
    if cfg.MODEL.RETINANET.NUM_CLASSES == 0:
        cfg.MODEL.RETINANET.NUM_CLASSES = len(training_classes(cfg))
    if cfg.MODEL.MASK2FORMER.NUM_CLASSES == 0:
        cfg.MODEL.MASK2FORMER.NUM_CLASSES = len(training_classes(cfg))
    if cfg.MODEL.get("POINT_HEAD", {}).get("NUM_CLASSES") == 0:
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 0:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(training_classes(cfg))
    return cfg


def configured_device(config_file: str, opts: list[str] | None = None) -> str:
    """``MODEL.DEVICE`` as the config has it, where there is no such device too.

    Nothing is imported or registered; for the arguments and errors see :func:`load_config`.
    """
    return merged_config(config_file, opts).MODEL.DEVICE


def merged_config(config_file: str, opts: list[str] | None) -> CfgNode:
    """The config as it is written; see :func:`load_config`."""
    cfg = get_cfg()
    _add_deeplab_config(cfg)
    _add_pointrend_config(cfg)
    add_wsis_config(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise UserError(f"config file {config_file} does not exist: check --config-file")
        _check_config_file(config_file)
        # Not Detectron2's default, which builds any Python object that a config file names.
        merge_safely = functools.partial(cfg.merge_from_file, allow_unsafe=False)
        _merge(merge_safely, config_file, f"config file {config_file}")
    if opts:
        for flag in opts:
            if str(flag).startswith("--"):
                raise UserError(f"{flag} stands after KEY VALUE options: put it before them")
        if len(opts) % 2:
            raise UserError(f"KEY VALUE options come in pairs, got {' '.join(opts)!r}")
        for key, value in zip(opts[::2], opts[1::2]):
            _merge(cfg.merge_from_list, [key, value], f"option {key} {value}")
    check_counts(cfg)
    return cfg


def _check_config_file(path: str, heirs: tuple[str, ...] = ()) -> None:
    """Refuse what Detectron2 would stumble over in a config file and in all that it is based on.

    Args:
        path: the file.
        heirs: the files that have it as their base, the one that was asked for first.

    Raises:
        UserError: a file is not YAML, no mapping, or its own base.
    """
    where = f"config file {path}"
    if os.path.realpath(path) in map(os.path.realpath, heirs):
        raise UserError(f"{where} is its own base ({' -> '.join((*heirs, path))}): correct _BASE_")
    if heirs:
        where += f", a base of {heirs[-1]},"
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be used ({error}): correct it") from error
    if content is None and heirs:
        return  # an empty base changes nothing
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{where} holds no config keys with their values: correct it")
    bases = content.get("_BASE_", [])
    bases = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) and base.isprintable() for base in bases):
        raise UserError(f"_BASE_ of {where} is {content['_BASE_']!r}: name config files")
    for base in bases:
        if not base.startswith(("http://", "https://")):
            base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
            _check_config_file(base, (*heirs, path))


def _import_modules(names: Sequence[str]) -> None:
    """Import the user's own modules, which register what they hold."""
    if names and os.getcwd() not in sys.path:
        # A script's path is its own folder. Last, so that no folder here hides a package.
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # it may raise anything
            raise UserError(
                f"IMPORTS names '{name}', which cannot be imported ({type(error).__name__}: "
                f"{error}): correct it, or put the folder that holds it on PYTHONPATH"
            ) from error


def _add_deeplab_config(cfg: CfgNode) -> None:
    # Not every installation of Detectron2 comes with its projects.
    with suppress(ImportError):
        from detectron2.projects.deeplab import add_deeplab_config  # also registers its models

        add_deeplab_config(cfg)


def _add_pointrend_config(cfg: CfgNode) -> None:
    with suppress(ImportError):
        from detectron2.projects.point_rend import add_pointrend_config  # registers its heads too

        add_pointrend_config(cfg)


def _merge(merge, argument, where: str) -> None:
    try:
        merge(argument)
    # What yacs raises for keys and values of the wrong kinds, and Python for one nested deeply.
    except (
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        # str() of a KeyError is its message in quotes.
        text = error.args[0] if isinstance(error, KeyError) else error
        raise UserError(f"{where} cannot be used ({text}): correct it") from error


def setup(cfg: CfgNode, args: argparse.Namespace | None = None, verbose: bool = True) -> None:
    """Create ``OUTPUT_DIR``, keep other runs from it, start the logs and seed all random numbers
    of this process.

    Args:
        cfg: its ``SEED`` plus the rank seeds python, numpy and torch; below 0: a random seed.
        args: logged as they are.
        verbose: log the environment and the whole config too, as Detectron2's tools do; without
            it the config is only saved as ``OUTPUT_DIR/config.yaml``.

    Raises:
        UserError: ``OUTPUT_DIR`` cannot be written, or another run has it.
    """
    prepare_folder(cfg.OUTPUT_DIR)
    ignore_harmless_warnings()
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    rank = comm.get_rank()
    # A process that runs several stages logs each to its own file, and once.
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "wsis_d2"):
        logging.getLogger(name).handlers.clear()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="wsis_d2")
    if verbose:
        default_setup(cfg, args or argparse.Namespace())
    else:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
        if comm.is_main_process():
            write_text(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump())
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)


def prepare_folder(folder: str) -> None:
    """Make an output folder that is this job's alone; every process calls this.

    Raises:
        UserError: it cannot be written, or another run has it.
    """
    if comm.is_main_process():
        check_writable_folder(folder)
        lock_folder(folder)
    comm.synchronize()
