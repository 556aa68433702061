#!/usr/bin/env python
"""Write the Shapes benchmark in PASCAL VOC's layout; does nothing where it is there already."""

import argparse

from wsis_d2.data.shapes import write_shapes
from wsis_d2.engine import run_tool


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="datasets/shapes", help="folder to make")
    parser.add_argument("--num-train", type=int, default=800, help="training images")
    parser.add_argument("--num-val", type=int, default=200, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--num-workers", type=int, help="processes (default: one per CPU)")
    return parser


def main(args: argparse.Namespace) -> None:
    written = write_shapes(
        args.output, args.num_train, args.num_val, args.seed, args.image_size, args.num_workers
    )
    counts = f"{args.num_train} training and {args.num_val} validation images"
    print(f"{args.output}: {counts}{'' if written else ' (there already)'}")


if __name__ == "__main__":
    raise SystemExit(run_tool(main, get_parser().parse_args()))
