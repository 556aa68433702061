#!/usr/bin/env python3
"""Turn a trained classifier and mask proposals into a COCO-format JSON of pseudo masks."""

import os

import openmp  # noqa: F401  (before torch)
from detectron2.engine import default_argument_parser

from wsis_d2.engine import launch_from_args, load_config, make_pseudo_labels, run_tool, setup
from wsis_d2.files import write_json


def run(args) -> None:
    """One process of the job."""
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = os.path.dirname(os.path.abspath(args.output))
    cfg.freeze()
    setup(cfg, args)
    metrics = make_pseudo_labels(cfg, args.output, resume=args.resume)
    if metrics:
        write_json(os.path.splitext(args.output)[0] + "_metrics.json", metrics, indent=2)


def main(args) -> None:
    launch_from_args(run, args)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--output", required=True, metavar="FILE", help="COCO JSON to write")
    raise SystemExit(run_tool(main, parser.parse_args()))
