import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from wsis_d2.errors import UserError
from wsis_d2.report import (
    ReportColumn,
    ReportNumber,
    ReportPanel,
    ReportRow,
    ReportSection,
    ReportTable,
    write_report,
)
from wsis_d2.report.page import format_number

HOSTILE = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class _Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if data.strip() and "style" not in self.open:
            self.texts.append(" ".join(data.split()))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def _image(seed, shape=(24, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _write(path, **changes):
    arguments = {
        "title": f"Report {HOSTILE}",
        "summary": f"First {HOSTILE}.\n\nSecond.",
        "tables": [
            ReportTable(
                HOSTILE,
                ["Masks", "Split", "AP50", HOSTILE],
                [[HOSTILE, "train", 38.46, 12], ["Mask R-CNN", None, float("nan"), None]],
                note=HOSTILE,
            )
        ],
        "rows": [
            ReportRow(HOSTILE, [ReportPanel(HOSTILE, _image(0)), ReportPanel("", None)]),
            ReportRow("two", [ReportPanel("", _image(1)), ReportPanel("3 peaks", _image(2))]),
        ],
        "columns": [ReportColumn(HOSTILE, HOSTILE), ReportColumn("Peaks", "Local maxima.")],
        "headline": [
            ReportNumber(HOSTILE, 97.31, "%", HOSTILE),
            ReportNumber("Not run", float("nan"), "%"),
        ],
        "provenance": {"Method": HOSTILE, "Date": "2020-02-02"},
        "sections": [ReportSection(HOSTILE, HOSTILE), ReportSection("Nothing")],
    }
    arguments |= changes
    parts = {name: arguments.pop(name) for name in ("tables", "columns", "rows")}
    arguments["sections"] = [ReportSection("First", **parts), *arguments["sections"]]
    write_report(path, **arguments)
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(tmp_path):
    text = _write(tmp_path / "report.html")
    page = _Page(text)
    assert not re.search(r"https?://", text, re.IGNORECASE)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert "url(" not in text
    for tag, attrs in page.tags:
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/"), tag
        if "href" in attrs:
            assert attrs["href"].startswith("#"), tag
    assert "prefers-color-scheme: dark" in text


def test_all_text_is_escaped_and_shown_as_it_is(tmp_path):
    text = _write(tmp_path / "report.html")
    assert "<script" not in text
    shown = _Page(text).texts
    assert sum(HOSTILE in part for part in shown) >= 14


def test_page_is_accessible(tmp_path):
    page = _Page(_write(tmp_path / "report.html"))
    assert [attrs["lang"] for attrs in page.all("html")] == ["en"]
    assert all(attrs["scope"] in ("col", "row") for attrs in page.all("th"))
    images = page.all("img")
    assert [attrs["alt"] for attrs in images] == [
        f"{HOSTILE}: {HOSTILE}, {HOSTILE}",
        f"{HOSTILE}: two",
        "Peaks: two, 3 peaks",
    ]
    assert all((attrs["width"], attrs["height"]) == ("32", "24") for attrs in images)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert named <= set(ids)
    links = {attrs["href"][1:] for attrs in page.all("a")}
    assert links - set(ids) == {"-"}  # "#-" closes an enlarged picture


def test_numbers(tmp_path):
    page = _Page(_write(tmp_path / "report.html"))
    table = page.texts[page.texts.index("Mask R-CNN") :]
    assert table[1:4] == ["–", "–", "–"]
    assert "38.5" in page.texts
    strip = page.texts[page.texts.index("Not run") :]
    assert strip[1] == "–"
    assert strip[2] != "%"
    # The column of splits holds words, those of figures hold numbers.
    heads = [attrs.get("class") for attrs in page.all("th") if attrs["scope"] == "col"]
    assert heads[:4] == [None, None, "number", "number"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (np.float32("nan"), "–"),
        (46.65, "46.6"),
        (np.float32(12.34), "12.3"),
        (np.int64(1464), "1,464"),
        (-0.01, "0.0"),
        (-1.5, "−1.5"),
        (0, "0"),
        ("val", "val"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


def test_format_number_refuses_other_things():
    with pytest.raises(TypeError, match="list"):
        format_number([1])


def test_pictures_survive(tmp_path):
    flat = np.zeros((32, 32, 3), np.uint8)
    flat[8:20, 8:20] = (250, 80, 10)
    photo = cv2.GaussianBlur(_image(3, (64, 64, 3)), (0, 0), 3)
    rows = [ReportRow("r", [ReportPanel("", flat), ReportPanel("", photo)])]
    page = _Page(_write(tmp_path / "report.html", rows=rows))
    decoded = []
    for attrs in page.all("img"):
        data = base64.b64decode(attrs["src"].split(",")[1], validate=True)
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        decoded.append(bgr[..., ::-1].astype(int))
    assert page.all("img")[0]["src"].startswith("data:image/png")
    assert (decoded[0] == flat).all()
    assert page.all("img")[1]["src"].startswith("data:image/jpeg")
    assert np.abs(decoded[1] - photo).mean() < 4


def test_same_arguments_give_the_same_bytes_and_no_file_is_left_behind(tmp_path):
    first = _write(tmp_path / "new" / "folder" / "report.html")
    second = _write(tmp_path / "new" / "folder" / "report.html")
    assert first == second
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["report.html"]


def test_a_minimal_report_has_no_empty_parts(tmp_path):
    write_report(tmp_path / "r.html", "Title", "")
    page = _Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.texts == ["Title", "Title"]
    assert not page.all("section")
    assert not page.all("table")


def test_lengths_must_agree(tmp_path):
    path = tmp_path / "r.html"
    with pytest.raises(ValueError, match="'one' has 1 entries for 2 columns"):
        _write(path, rows=[ReportRow("one", [ReportPanel("", None)])])
    with pytest.raises(ValueError, match="'t' has 2 entries for 1 columns"):
        _write(path, tables=[ReportTable("t", ["a"], [[1, 2]])])
    assert not path.exists()


def test_unwritable_output_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.html. cannot be written"):
        write_report(tmp_path / "file" / "report.html", "Title", "")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "report.html", "Title", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "report.html"]
