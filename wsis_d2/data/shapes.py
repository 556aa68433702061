"""Shapes: the embedded benchmark of weakly supervised instance segmentation."""

SHAPES_CLASSES = ("ant", "beetle", "crab", "fish", "snail")
