#!/usr/bin/env python3
"""Run all stages of a recipe, from image labels to a trained Mask R-CNN and a report."""

import os

import openmp  # noqa: F401  (before torch)
from detectron2.engine import default_argument_parser
from tabulate import tabulate

from wsis_d2.engine import run_recipe, run_tool
from wsis_d2.report.tables import headline, result_table


def main(args) -> None:
    results = run_recipe(
        args.recipe,
        args.output,
        num_gpus=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        resume=args.resume,
        opts=args.opts,
    )
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun one process speaks
    for what, _, value in headline(results):
        print(f"{what}: {value:.1f} %")
    table = result_table(results)
    if table.rows:
        print(f"\n{tabulate(table.rows, table.columns, floatfmt='.1f', missingval='-')}\n")
    print(f"report: {os.path.abspath(os.path.join(args.output, 'report.html'))}")


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--recipe", required=True, metavar="FILE", help="recipe YAML")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    raise SystemExit(run_tool(main, parser.parse_args()))
