"""The report of a recipe: its page, tables, and the steps of every method as pictures."""

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
from .steps import (
    PICTURE,
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
    "SECOND_STAGES",
    "Example",
    "Method",
    "ReportColumn",
    "ReportNumber",
    "ReportPanel",
    "ReportRow",
    "ReportSection",
    "ReportTable",
    "Step",
    "generator_name",
    "headline",
    "method_of",
    "second_stage_of",
    "tables",
    "write_report",
]
