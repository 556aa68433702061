#!/usr/bin/env python3
"""Run all stages of a recipe, from image labels to a trained Mask R-CNN and a report."""

import os
from datetime import timedelta

import before_torch  # noqa: F401
from detectron2.engine import default_argument_parser
from tabulate import tabulate

from wsis_d2.engine import run_tool
from wsis_d2.files import free_space
from wsis_d2.recipes import plan_recipe, review_options, run_recipe
from wsis_d2.report.tables import headline, result_table


def show_plan(args) -> None:
    """What would run, and what is known of its last run."""
    plan = plan_recipe(args.recipe, args.output, args.opts)
    rows = [
        (
            stage.name,
            "run" if stage.why else "skip",
            stage.why or "unchanged",
            "unknown" if stage.seconds is None else timedelta(seconds=round(stage.seconds)),
            _gigabytes(stage.size) if stage.size else "unknown",
        )
        for stage in plan
    ]
    columns = ("stage", "would", "why", "took last time", "files of last time")
    print(tabulate(rows, columns, disable_numparse=True))
    times = [stage.seconds for stage in plan if stage.why]
    total = "unknown" if None in times else timedelta(seconds=round(sum(times)))
    print(f"\ntime by the last run: {total}; free disk: {_gigabytes(free_space(args.output))}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def main(args) -> None:
    if args.review:
        args.opts += review_options(args.recipe, args.output, args.review, args.opts)
    if args.dry_run:
        show_plan(args)
        return
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
    parser.add_argument(
        "--dry-run", action="store_true", help="say which stages would run and why, and run none"
    )
    parser.add_argument(
        "--review",
        default="",
        metavar="FILE",
        help="review of the pseudo masks from the report of an earlier run; the stage that learns "
        "from them heeds it",
    )
    raise SystemExit(run_tool(main, parser.parse_args()))
