"""One HTML file that shows how labels became masks: the figures first, then the pictures.

The file holds everything it needs (images inline, nothing from the network, no script but the one
of a review; its Content-Security-Policy forbids more), so that it can be opened from disk, mailed
or archived.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real

import numpy as np

from ..files import write_text
from .pictures import data_uri
from .review_section import SCRIPT, ReviewTask, review_html, script_source
from .style import MOST_COLUMNS, STYLE

Cell = str | float | None
NO_VALUE = "–"


@dataclass(frozen=True)
class ReportNumber:
    """A headline figure, such as ReportNumber("Mask R-CNN, AP50 on val", 46.7, "%")."""

    label: str
    value: Cell
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table. The first column names the rows; a column without text is set as numbers.

    None and NaN, for "not measured", are shown as an en dash. With ``upright``, headings but the
    first are written upward: many of them take little room.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    upright: bool = False


@dataclass(frozen=True)
class ReportColumn:
    """A column of the gallery: its heading, and a sentence on what it shows and whence it comes."""

    title: str
    legend: str = ""


@dataclass(frozen=True)
class ReportPanel:
    """One picture of the gallery: (H, W, 3) uint8 RGB, or None where there is none to show."""

    caption: str
    image: np.ndarray | None


@dataclass(frozen=True)
class ReportRow:
    """All panels of one image, in the order of the gallery's columns."""

    title: str
    panels: Sequence[ReportPanel]


@dataclass(frozen=True)
class ReportSection:
    """A part under a heading: text, tables, a review, then a gallery; each may be empty."""

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    columns: Sequence[ReportColumn] = ()
    rows: Sequence[ReportRow] = ()
    review: ReviewTask | None = None


def write_report(
    path: str | os.PathLike,
    title: str,
    summary: str,
    sections: Sequence[ReportSection] = (),
    *,
    headline: Sequence[ReportNumber] = (),
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write the report, atomically. The same arguments give the same bytes.

    Args:
        path: the HTML file; its folder is made if need be.
        title: the heading of the page.
        summary: a few sentences below it; a blank line starts a new paragraph.
        sections: the parts of the page, in their order; one of them may have a review.
        headline: the few figures that matter most, shown as a strip on top.
        provenance: how the report was made, in order: method, config, versions, date ...

    Raises:
        UserError: the file cannot be written.
        ValueError: a row's length is not that of its columns, or there are two reviews.
    """
    body = [
        "<header>",
        f"<h1>{escape(title)}</h1>",
        _paragraphs(summary),
        _headline(headline),
        "</header>",
        "<main>",
        *(_section(number, part) for number, part in enumerate(sections, 1)),
        "</main>",
        _provenance(provenance or {}),
    ]
    reviews = sum(part.review is not None for part in sections)
    if reviews > 1:
        raise ValueError(f"a page has one review, got {reviews}")
    write_text(path, _page(title, _lines(*body), has_review=bool(reviews)))


def format_number(value: Cell, decimals: int = 1) -> str:
    """A cell's text: whole numbers as they are, others rounded, None and NaN as an en dash."""
    if value is None:
        return NO_VALUE
    if isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        value = float(value)
        if math.isnan(value):
            return NO_VALUE
        # A tiny negative number would be shown as -0.0.
        return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    raise TypeError(f"a cell is a string, a number or None, got {type(value).__name__}")


def _page(title: str, body: str, has_review: bool) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    script = ""
    if has_review:
        policy += f"; script-src {script_source()}"
        script = f"\n<script>{SCRIPT}</script>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="{policy}">
<title>{escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
{body}{script}
</body>
</html>
"""


def _paragraphs(text: str) -> str:
    return "\n".join(
        f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()
    )


def _headline(numbers: Sequence[ReportNumber]) -> str:
    if not numbers:
        return ""
    items = []
    for number in numbers:
        known = number.value is not None and format_number(number.value) != NO_VALUE
        unit = f'<span class="unit">{escape(number.unit)}</span>' if number.unit and known else ""
        note = f'<dd class="note">{escape(number.note)}</dd>' if number.note else ""
        items.append(
            f"<div><dt>{escape(number.label)}</dt>"
            f'<dd class="value">{escape(format_number(number.value))}{unit}</dd>{note}</div>'
        )
    return _lines('<dl class="headline">', *items, "</dl>")


def _provenance(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    return _lines(
        '<footer aria-labelledby="made">',
        '<h2 id="made">How this report was made</h2>',
        '<dl class="facts">',
        *items,
        "</dl>",
        "</footer>",
    )


def _section(number: int, section: ReportSection) -> str:
    return _lines(
        f'<section aria-labelledby="s{number}">',
        f'<h2 id="s{number}">{escape(section.title)}</h2>',
        _paragraphs(section.text),
        _tables(section.tables),
        review_html(section.review) if section.review is not None else "",
        _gallery(number, section.columns, section.rows),
        "</section>",
    )


def _tables(tables: Sequence[ReportTable]) -> str:
    if not tables:
        return ""
    return _lines('<div class="tables">', *map(_table, tables), "</div>")


def _table(table: ReportTable) -> str:
    for row in table.rows:
        _check_length(f"table {table.title!r}", row, table.columns)
    numeric = [
        index > 0 and not any(isinstance(row[index], str) for row in table.rows)
        for index in range(len(table.columns))
    ]
    css = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{c}>{escape(t)}</th>' for c, t in zip(css, table.columns))
    body = []
    for row in table.rows:
        name, *values = (escape(format_number(cell)) for cell in row)
        cells = "".join(f"<td{c}>{value}</td>" for c, value in zip(css[1:], values))
        body.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    upright = ' class="upright"' if table.upright else ""
    return _lines(
        # The focus lets a keyboard scroll a table that is wider than the screen.
        f'<div class="table"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(table.title)}"><table{upright}>',
        f"<caption>{escape(table.title)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody>",
        f"</table></div>{note}</div>",
    )


def _gallery(number: int, columns: Sequence[ReportColumn], rows: Sequence[ReportRow]) -> str:
    if not rows:
        return ""
    legend = [
        f"<div><dt>{escape(c.title)}</dt><dd>{escape(c.legend)}</dd></div>"
        for c in columns
        if c.legend
    ]
    body = []
    for index, row in enumerate(rows):
        _check_length(f"gallery row {row.title!r}", row.panels, columns)
        panels = (
            _panel(f"p{number}-{index}-{place}", row.title, columns[place].title, panel)
            for place, panel in enumerate(row.panels)
        )
        body += [
            f"<article><h3>{escape(row.title)}</h3>",
            _lines(f'<div class="panels" style="{_grid(len(columns))}">', *panels, "</div>"),
            "</article>",
        ]
    return _lines(
        *(['<dl class="legend">', *legend, "</dl>"] if legend else []),
        '<div class="gallery">',
        *body,
        "</div>",
    )


def _grid(count: int) -> str:
    """Columns for ``count`` panels where so many have room: as few rows as can be, evenly full."""
    fitting = ((limit, math.ceil(count / math.ceil(count / limit))) for limit in MOST_COLUMNS)
    return ";".join(f"--of{limit}:{columns}" for limit, columns in fitting)


def _panel(anchor: str, row: str, step: str, panel: ReportPanel) -> str:
    title, alt = f'<p class="step">{escape(step)}</p>', f"{step}: {row}"
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    if panel.image is None:
        return f'<figure>{title}<p class="empty">{NO_VALUE}</p>{caption}</figure>'
    height, width = panel.image.shape[:2]
    alt = f"{alt}, {panel.caption}" if panel.caption else alt
    # The picture becomes an overlay while the address names its figure; "#-" names nothing, so
    # that closing it scrolls nowhere. No script, and each picture is stored once.
    return (
        f'<figure id="{anchor}">{title}<a class="open" href="#{anchor}">'
        f'<img src="{data_uri(panel.image)}" width="{width}" height="{height}" loading="lazy" '
        f'alt="{escape(alt)}"></a><a class="close" href="#-" aria-label="Close the picture"></a>'
        f"{caption}</figure>"
    )


def _lines(*parts: str) -> str:
    return "\n".join(filter(None, parts))


def _check_length(where: str, values: Sequence, columns: Sequence) -> None:
    if len(values) != len(columns):
        raise ValueError(f"{where} has {len(values)} entries for {len(columns)} columns")
