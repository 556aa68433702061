#!/usr/bin/env python3
"""Turn the class activation maps in CAM.PATH into seeds, label maps in SEEDS.PATH."""

import argparse
import os

import before_torch  # noqa: F401

from wsis_d2.engine import load_config, make_seeds, run_tool, setup
from wsis_d2.files import write_json


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file")
    parser.add_argument(
        "--resume", action="store_true", help="refuse to replace seeds of other settings"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options"
    )
    return parser


def main(args) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = os.path.abspath(cfg.SEEDS.PATH)
    cfg.freeze()
    setup(cfg, args)
    metrics = make_seeds(cfg, resume=args.resume)
    if metrics:
        write_json(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), metrics, indent=2)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, get_parser().parse_args()))
