"""One HTML file that shows how labels became masks: the figures first, then the pictures.

The file holds everything it needs (images inline, no script, nothing from the network; its
Content-Security-Policy forbids more), so that it can be opened from disk, mailed or archived.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real

import cv2
import numpy as np

from ..files import write_text
from .style import STYLE

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

    None and NaN, for "not measured", are shown as an en dash.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


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
    """A part under a heading: text, then tables, then a gallery; each may be empty."""

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    columns: Sequence[ReportColumn] = ()
    rows: Sequence[ReportRow] = ()


def write_report(
    path: str | os.PathLike,
    title: str,
    summary: str,
    tables: Sequence[ReportTable] = (),
    rows: Sequence[ReportRow] = (),
    *,
    columns: Sequence[ReportColumn] = (),
    headline: Sequence[ReportNumber] = (),
    provenance: Mapping[str, str] | None = None,
    sections: Sequence[ReportSection] = (),
) -> None:
    """Write the report, atomically. The same arguments give the same bytes.

    Args:
        path: the HTML file; its folder is made if need be.
        title: the heading of the page.
        summary: a few sentences below it; a blank line starts a new paragraph.
        tables: the measurements.
        rows: the gallery, one row of panels per image.
        columns: the gallery's columns, one for each panel of a row.
        headline: the few figures that matter most, shown as a strip on top.
        provenance: how the report was made, in order: method, config, versions, date ...
        sections: further parts, below the gallery.

    Raises:
        UserError: the file cannot be written.
        ValueError: a row's length is not that of its columns.
    """
    parts = [ReportSection("Measurements", tables=tables)] if tables else []
    parts += [ReportSection("Step by step", columns=columns, rows=rows)] if rows else []
    parts += sections
    body = [
        "<header>",
        f"<h1>{escape(title)}</h1>",
        _paragraphs(summary),
        _headline(headline),
        "</header>",
        "<main>",
        *(_section(number, part) for number, part in enumerate(parts, 1)),
        "</main>",
        _provenance(provenance or {}),
    ]
    write_text(path, _page(title, _lines(*body)))


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


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
{body}
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
    return _lines(
        # The focus lets a keyboard scroll a table that is wider than the screen.
        f'<div class="table"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(table.title)}"><table>',
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
    head = "".join(f'<th scope="col">{escape(c.title)}</th>' for c in columns)
    body = []
    for index, row in enumerate(rows):
        _check_length(f"gallery row {row.title!r}", row.panels, columns)
        cells = (
            _panel(f"p{number}-{index}-{column}", f"{columns[column].title}: {row.title}", panel)
            for column, panel in enumerate(row.panels)
        )
        body += [
            f'<tbody><tr><th scope="rowgroup" colspan="{len(columns)}">'
            f'<span class="stay">{escape(row.title)}</span></th></tr>',
            _lines("<tr>", *cells, "</tr></tbody>"),
        ]
    return _lines(
        *(['<dl class="legend">', *legend, "</dl>"] if legend else []),
        f'<div class="gallery" style="--columns:{len(columns)}"><table>',
        f"<thead><tr>{head}</tr></thead>",
        *body,
        "</table></div>",
    )


def _panel(anchor: str, alt: str, panel: ReportPanel) -> str:
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    if panel.image is None:
        return f'<td><figure><p class="empty">{NO_VALUE}</p>{caption}</figure></td>'
    height, width = panel.image.shape[:2]
    alt = f"{alt}, {panel.caption}" if panel.caption else alt
    # The picture becomes an overlay while the address names its figure; "#-" names nothing, so
    # that closing it scrolls nowhere. No script, and each picture is stored once.
    return (
        f'<td><figure id="{anchor}"><a class="open" href="#{anchor}">'
        f'<img src="{_data_uri(panel.image)}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"></a><a class="close" href="#-" aria-label="Close the picture"></a>'
        f"{caption}</figure></td>"
    )


def _data_uri(image: np.ndarray) -> str:
    """A picture as a data: address, in the format that takes less room."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    bgr = np.ascontiguousarray(image[..., ::-1])
    # Full color resolution: thin colored outlines smear when it is halved, JPEG's default.
    jpeg_options = [
        *(cv2.IMWRITE_JPEG_QUALITY, 88),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    _, jpeg = cv2.imencode(".jpg", bgr, jpeg_options)
    _, png = cv2.imencode(".png", bgr)
    kind, data = min((("png", png), ("jpeg", jpeg)), key=lambda item: len(item[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def _lines(*parts: str) -> str:
    return "\n".join(filter(None, parts))


def _check_length(where: str, values: Sequence, columns: Sequence) -> None:
    if len(values) != len(columns):
        raise ValueError(f"{where} has {len(values)} entries for {len(columns)} columns")
