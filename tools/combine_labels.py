#!/usr/bin/env python3
"""Combine several files of pseudo labels of the same images into one.

Masks that the files agree on score higher. With true masks of some images the scores become
probabilities, and what was fitted is saved for other datasets. The config names the dataset; its
section AGREEMENT has more settings.
"""

import argparse
import os

import before_torch  # noqa: F401

from wsis_d2.engine import combine_labels, load_config, run_tool, setup
from wsis_d2.files import write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config file")
    add("--labels", nargs="+", required=True, metavar="FILE", help="COCO JSONs to combine")
    add("--output", required=True, metavar="FILE", help="COCO JSON to write")
    add("--true-masks", default="", metavar="FILE", help="COCO JSON with some of the true masks")
    add("--student", default="", metavar="FILE", help="predictions that fill in missing classes")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.AGREEMENT.LABELS = tuple(args.labels)
    cfg.AGREEMENT.TRUE_MASKS = args.true_masks or cfg.AGREEMENT.TRUE_MASKS
    cfg.AGREEMENT.STUDENT = args.student or cfg.AGREEMENT.STUDENT
    cfg.OUTPUT_DIR = os.path.dirname(os.path.abspath(args.output))
    cfg.freeze()
    setup(cfg, args)
    metrics = combine_labels(cfg, args.output)
    if metrics:
        write_json(os.path.splitext(args.output)[0] + "_metrics.json", metrics, indent=2)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
