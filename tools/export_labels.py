#!/usr/bin/env python3
"""Write pseudo labels as COCO polygons, or for YOLO, VOC, Label Studio or FiftyOne."""

import argparse
import math

from wsis_d2.engine import run_tool
from wsis_d2.evaluation.export import EXPORT_FORMATS, LOCAL_FILES, Selection, export_labels


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("labels", metavar="LABELS", help="COCO JSON of make_pseudo_labels.py or run_pipeline.py")
    add("--format", required=True, choices=EXPORT_FORMATS)
    add("--output", required=True, metavar="DIR", help="folder to write, a new one")
    add("--images", default="", metavar="DIR", help="folder of the images, to be copied too")
    add("--link-images", action="store_true", help="symbolic links instead of copies")
    add("--min-score", type=float, default=-math.inf, help="least score of a mask")
    add("--min-area", type=float, default=0.0, metavar="PIXELS", help="least area of a mask")
    add("--fill-holes", type=int, default=0, metavar="PIXELS", help="fill holes up to this size")
    add("--classes", nargs="+", default=(), metavar="NAME", help="these alone, in this order")
    add("--keep-empty", action="store_true", help="export images without a mask, too")
    add("--val", default="", metavar="SHARE|FILE", help="share of val (0.2), or list of its images")
    add("--image-url", default=LOCAL_FILES, help="what precedes file names, for label-studio")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    selection = Selection(
        args.min_score, args.min_area, args.classes, args.keep_empty, args.fill_holes
    )
    summary = export_labels(
        args.labels,
        args.format,
        args.output,
        image_root=args.images,
        link_images=args.link_images,
        selection=selection,
        val=args.val,
        image_url=args.image_url,
    )
    print(summary)


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
