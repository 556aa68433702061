#!/usr/bin/env python3
"""Train or evaluate the model of a LazyConfig file: those of configs/lazy, or your own."""

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser

from wsis_d2.engine import (
    evaluate_lazy,
    launch_from_args,
    lazy_device,
    load_lazy_config,
    run_tool,
    setup_lazy,
    train_lazy,
)


def run(args) -> None:
    """One process of the job."""
    cfg = load_lazy_config(args.config_file, args.opts)
    setup_lazy(cfg, args)
    if args.eval_only:
        evaluate_lazy(cfg)
    else:
        train_lazy(cfg, resume=args.resume)


def main(args) -> None:
    launch_from_args(run, args, lazy_device)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, default_argument_parser().parse_args()))
