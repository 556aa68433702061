#!/usr/bin/env python3
"""Look at images and labels before hours of training: a table of the classes, and advice.

Checks the datasets of a config file, or a folder of photos with their labels. The exit code is 1
where training would stop or leave a class out, 0 where there is advice at most.
"""

import argparse
import sys

import before_torch  # noqa: F401

from wsis_d2.data import check_registered_datasets
from wsis_d2.engine import load_config, run_tool
from wsis_d2.files import check_writable, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file")
    parser.add_argument("--photos", default="", metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--labels", default="", metavar="FILE", help="CSV, JSON or JSONL; none: a folder per class"
    )
    parser.add_argument("--output", metavar="FILE", help="write what was found to this JSON file")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.output:
        check_writable(args.output)
    opts = list(args.opts)
    if args.photos:
        opts += ["DATASETS.OWN_TRAIN.IMAGE_ROOT", args.photos]
        opts += ["DATASETS.OWN_TRAIN.LABELS", args.labels]
        opts += ["DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "()"]
    cfg = load_config(args.config_file, opts)
    report = check_registered_datasets(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    print(report)
    if args.output:
        write_json(args.output, report.to_json(), indent=2)
    if report.has_errors:
        sys.exit(1)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
