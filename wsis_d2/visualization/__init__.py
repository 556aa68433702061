"""Drawings of every step from image labels to masks."""

from .drawing import (
    draw_heatmap,
    draw_instances,
    draw_label_map,
    draw_peak_responses,
    draw_peaks,
    instance_colors,
    panel_scale,
    resize_image,
)
from .relations import (
    displacement_maximum,
    draw_boundary,
    draw_clusters,
    draw_displacement,
    draw_features,
    draw_instance_scores,
)

__all__ = [
    "displacement_maximum",
    "draw_boundary",
    "draw_clusters",
    "draw_displacement",
    "draw_features",
    "draw_heatmap",
    "draw_instance_scores",
    "draw_instances",
    "draw_label_map",
    "draw_peak_responses",
    "draw_peaks",
    "instance_colors",
    "panel_scale",
    "resize_image",
]
