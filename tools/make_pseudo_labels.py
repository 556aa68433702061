#!/usr/bin/env python3
"""Turn a trained classifier and mask proposals into a COCO-format JSON of pseudo masks.

Jobs that know nothing of each other can share the images: each is given a shard of them, and the
same command with --merge-shards then makes one file of all.
"""

import os

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser

from wsis_d2.engine import (
    launch_from_args,
    load_config,
    make_pseudo_labels,
    merge_pseudo_labels,
    run_tool,
    setup,
)
from wsis_d2.files import write_json
from wsis_d2.parallel import Shard


def run(args) -> None:
    """One process of the job."""
    shard = Shard.parse(args.shard) if args.shard else None
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = os.path.dirname(os.path.abspath(args.output))
    if shard:
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, shard.name)  # its log
    cfg.freeze()
    setup(cfg, args)
    if args.merge_shards:
        metrics = merge_pseudo_labels(cfg, args.output, args.merge_shards)
    else:
        metrics = make_pseudo_labels(cfg, args.output, resume=args.resume, shard=shard)
    if metrics:
        write_json(os.path.splitext(args.output)[0] + "_metrics.json", metrics, indent=2)


def main(args) -> None:
    if args.merge_shards:
        run(args)
    else:
        launch_from_args(run, args)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--output", required=True, metavar="FILE", help="COCO JSON to write")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--shard", metavar="I/N", help="label every N-th image alone, I from 0 to N - 1"
    )
    parts.add_argument(
        "--merge-shards", type=int, metavar="N", help="make the JSON of N shards that are done"
    )
    raise SystemExit(run_tool(main, parser.parse_args()))
