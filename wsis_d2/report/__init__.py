"""The report of a recipe: its page, tables, and the steps of every method as pictures."""

from .dataset_tables import dataset_tables
from .page import (
    ReportColumn,
    ReportNumber,
    ReportPanel,
    ReportRow,
    ReportSection,
    ReportTable,
    write_report,
)
from .panels import Example
from .pseudo_masks import PseudoMasks, review_task
from .review_section import ReviewImage, ReviewMask, ReviewTask
from .steps import (
    PICTURE,
    PSEUDO_MASKS_OF_FILE,
    SECOND_STAGES,
    Method,
    Step,
    generator_name,
    method_of,
    second_stage_of,
)
from .tables import headline, tables

__all__ = [
    "PICTURE",
    "PSEUDO_MASKS_OF_FILE",
    "SECOND_STAGES",
    "Example",
    "PseudoMasks",
    "Method",
    "ReportColumn",
    "ReportNumber",
    "ReportPanel",
    "ReportRow",
    "ReportSection",
    "ReportTable",
    "ReviewImage",
    "ReviewMask",
    "ReviewTask",
    "Step",
    "dataset_tables",
    "generator_name",
    "headline",
    "method_of",
    "review_task",
    "second_stage_of",
    "tables",
    "write_report",
]
