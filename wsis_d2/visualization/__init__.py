"""Drawings of every step from image labels to masks, and the report that shows them."""

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
from .report import (
    ReportColumn,
    ReportNumber,
    ReportPanel,
    ReportRow,
    ReportSection,
    ReportTable,
    write_report,
)

__all__ = [
    "ReportColumn",
    "ReportNumber",
    "ReportPanel",
    "ReportRow",
    "ReportSection",
    "ReportTable",
    "draw_heatmap",
    "draw_instances",
    "draw_label_map",
    "draw_peak_responses",
    "draw_peaks",
    "instance_colors",
    "panel_scale",
    "resize_image",
    "write_report",
]
