"""Trainer, stages, recipes and launch."""

from .checkpoint import WSISCheckpointer, file_sha256
from .cli import run_tool
from .launch import launch

__all__ = ["WSISCheckpointer", "file_sha256", "launch", "run_tool"]
