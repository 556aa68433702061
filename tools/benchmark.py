#!/usr/bin/env python3
"""Time every stage, beside what the machine could do, and fast ways beside plain ones."""

import argparse

import before_torch  # noqa: F401
import torch

from wsis_d2.allocator import keep_freed_memory
from wsis_d2.benchmarks import (
    format_comparison,
    format_results,
    read_results,
    run_benchmarks,
)
from wsis_d2.engine import run_tool
from wsis_d2.files import check_writable, write_json


def main(args) -> None:
    old = read_results(args.compare) if args.compare else []
    if args.output:
        check_writable(args.output)
    if args.device == "cpu":
        keep_freed_memory()  # as the tools do
    results = run_benchmarks(
        args.device,
        images=args.images,
        only=args.only,
        threads=args.threads,
        quick=args.quick,
        profile=args.profile,
        longest_edge=args.size,
        processes=args.processes,
    )
    if args.output:
        write_json(args.output, results, indent=2)
    print(format_results(results))
    if old:
        print(f"\nold over new, {args.compare}:\n{format_comparison(results, old)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: 1)")
    parser.add_argument("--images", metavar="DIR", default="", help="photos instead of noise")
    parser.add_argument(
        "--size", metavar="PIXELS", type=int, default=0, help="longer side to resize images to"
    )
    parser.add_argument(
        "--only",
        metavar="NAME[,NAME]",
        type=lambda names: names.split(","),
        default=(),
        help="run these alone; a wrong name lists them all",
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=1,
        help="only say how many times as many images N processes of a CPU do as one",
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--compare", metavar="FILE", help="print the ratios to an earlier output")
    parser.add_argument("--profile", action="store_true", help="say what takes each stage's time")
    parser.add_argument("--quick", action="store_true", help="tiny inputs: does everything run?")
    raise SystemExit(run_tool(main, parser.parse_args()))
