#!/usr/bin/env python3
"""Convert IRNet's published weights (res50_cam.pth, res50_irn.pth) to checkpoints of ours, or back.

Which of the two nets a file holds is found out. The converted classifier is used with
configs/Base-CAM.yaml, the converted IRNet with configs/Base-IRNet.yaml.
"""

import argparse

from wsis_d2.data import dataset_classes
from wsis_d2.engine import convert_checkpoint, run_tool
from wsis_d2.weights.published import FORMATS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="checkpoint to read")
    parser.add_argument("--output", required=True, help="checkpoint to write")
    parser.add_argument(
        "--to", required=True, choices=FORMATS, help="layout of the output: ours, or the published"
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes",
        nargs="+",
        default=(),
        help="class names in the order of the classifier's outputs, kept in our checkpoints",
    )
    classes.add_argument(
        "--dataset", help="take them from a dataset known by name (voc_2012_train_aug)"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    classes = dataset_classes(args.dataset) if args.dataset else args.classes
    kind = convert_checkpoint(args.input, args.output, args.to, classes)
    print(f"{args.output}: {kind}")


if __name__ == "__main__":
    raise SystemExit(run_tool(main, parse_args()))
