#!/usr/bin/env python3
"""Evaluate the instance masks of a COCO-format file against the true masks of another.

Prints VOC's AP at several IoU thresholds and the average best overlap (ABO): overall, by object
size, by number of objects in the image and per class.
"""

import argparse
import logging

from wsis_d2.engine import run_tool
from wsis_d2.evaluation import evaluate_mask_files
from wsis_d2.files import check_writable, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gt", required=True, help="COCO dataset JSON with the true masks")
    parser.add_argument(
        "--pred", required=True, help="COCO dataset JSON (pseudo labels) or list of COCO results"
    )
    parser.add_argument("--output", help="write all metrics to this JSON file")
    parser.add_argument("--coco", action="store_true", help="run COCO's own evaluation too")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if args.output:
        check_writable(args.output)
    metrics, table = evaluate_mask_files(args.gt, args.pred, coco=args.coco)
    print(table)
    if args.output:
        write_json(args.output, metrics, indent=2)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
