#!/usr/bin/env python3
"""Write contour maps of a dataset, with a trained IRNet or student, to CONTOURS.PATH."""

import os

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser

from wsis_d2.engine import launch_from_args, load_config, make_contours, run_tool, setup


def run(args) -> None:
    """One process of the job."""
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = os.path.abspath(cfg.CONTOURS.PATH)
    cfg.freeze()
    setup(cfg, args)
    make_contours(cfg, resume=args.resume)


def main(args) -> None:
    launch_from_args(run, args)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, default_argument_parser().parse_args()))
