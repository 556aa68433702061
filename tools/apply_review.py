#!/usr/bin/env python3
"""Write the pseudo labels that a review, made in a recipe's report, leaves."""

import argparse

from wsis_d2.engine import run_tool
from wsis_d2.evaluation import apply_review


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("labels", metavar="LABELS", help="the reviewed COCO JSON, pseudo_labels.json of a recipe")
    add("review", metavar="REVIEW", help="review.json, which the report offers as a download")
    add("--output", required=True, metavar="FILE", help="COCO JSON to write")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    counts = apply_review(args.labels, args.review, args.output)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{summary}: '{args.output}'")


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
