#!/usr/bin/env python3
"""Time the fast ways beside the plain ones and print the ratios."""

import argparse

import openmp  # noqa: F401  (before torch)
import torch
from tabulate import tabulate

from wsis_d2.benchmarks import run_benchmarks
from wsis_d2.engine import run_tool
from wsis_d2.files import write_json


def main(args) -> None:
    results = run_benchmarks(args.device)
    print(tabulate(results, headers="keys", floatfmt=".3g"))
    if args.output:
        write_json(args.output, results, indent=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON, too")
    raise SystemExit(run_tool(main, parser.parse_args()))
