#!/usr/bin/env python3
"""Write the class activation maps of a dataset, with a trained classifier, to CAM.PATH."""

import os

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from wsis_d2.engine import launch_from_args, load_config, make_cams, run_tool, setup
from wsis_d2.files import write_json


def run(args) -> None:
    """One process of the job."""
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = os.path.abspath(cfg.CAM.PATH)
    cfg.freeze()
    setup(cfg, args)
    metrics = make_cams(cfg, resume=args.resume)
    if metrics and comm.is_main_process():
        write_json(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), metrics, indent=2)


def main(args) -> None:
    launch_from_args(run, args)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, default_argument_parser().parse_args()))
