#!/usr/bin/env python3
"""Train or evaluate any stage: a classifier on image labels, Mask R-CNN on pseudo masks."""

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser

from wsis_d2.engine import evaluate, launch_from_args, load_config, run_tool, setup, train


def run(args) -> None:
    """One process of the job."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    setup(cfg, args)
    if args.eval_only:
        evaluate(cfg)
    else:
        train(cfg, resume=args.resume)


def main(args) -> None:
    launch_from_args(run, args)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, default_argument_parser().parse_args()))
