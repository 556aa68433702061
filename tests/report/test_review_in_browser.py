"""The report in a real browser: it fits the window, and decisions by keyboard reach the JSON."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from browser import DOWN, END, ENTER, LEFT, PAGE_DOWN, RIGHT, UP, chromium

from wsis_d2.data import Review, read_review
from wsis_d2.evaluation import apply_review
from wsis_d2.files import file_sha256, write_json
from wsis_d2.report import (
    ReportColumn,
    ReportPanel,
    ReportRow,
    ReportSection,
    ReportTable,
    ReviewImage,
    ReviewMask,
    ReviewTask,
    write_report,
)
from wsis_d2.structures import encode_mask

CLASSES = {3: "ant", 5: "bee", 9: "a class with a name as long as this one"}
NUM_MASKS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def browser(folder):
    with chromium(folder) as browser:
        yield browser


def _picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels(folder):
    """Pseudo labels with the masks 0, 1, ..., whose scores rise and whose classes alternate."""
    annotations = [
        {
            "id": i,
            "image_id": i % 30,
            "category_id": list(CLASSES)[i % 2],
            "segmentation": encode_mask(np.ones((30, 40), bool)),
            "score": i / NUM_MASKS,
            "iscrowd": 0,
        }
        for i in range(NUM_MASKS)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in range(30)]
    categories = [{"id": i, "name": name} for i, name in CLASSES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "labels.json", content)
    return folder / "labels.json"


@pytest.fixture(scope="module")
def task(labels):
    masks = [
        ReviewMask(
            i,
            i % 2,
            i / NUM_MASKS,
            # Two have no picture. The student agrees with the last ones least.
            *((i % 30, "M5 5 5 20 30 20 30 5Z") if i < NUM_MASKS - 2 else ()),
            agreements=(1 - i / NUM_MASKS if i < NUM_MASKS - 2 else None, None),
        )
        for i in range(NUM_MASKS)
    ]
    images = [ReviewImage(f"{i}.png", _picture(i), ["ant", "bee"]) for i in range(30)]
    agreements = ("the student", "the truth")
    return ReviewTask(file_sha256(str(labels)), CLASSES, masks, images, agreements)


@pytest.fixture
def page(folder, task, browser):
    """The page with a review, open, without decisions of an earlier test."""
    path = folder / "review.html"
    write_report(path, "Report", "Text.", [ReportSection("Review", review=task)])
    browser.resize(1280)
    browser.open(path)
    browser.run("localStorage.clear()")
    browser.open(path)
    browser.run("document.getElementById('review-list').focus()")
    return path


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_page_fits_the_window(browser, folder, task, width):
    words = ["word"] * 20 + ["averyveryverylongwordwithoutanyspaceinit" * 3]
    galleries = [
        ReportSection(
            " ".join(words),
            columns=[ReportColumn(f"Step number {i}", " ".join(words)) for i in range(count)],
            rows=[
                ReportRow(words[-1], [ReportPanel(words[-1], _picture(i)) for i in range(count)])
            ],
        )
        for count in (1, 3, 8, 12)
    ]
    cells = [[words[-1], *range(25)]]
    tables = [
        ReportTable(words[-1], ["", *map(str, range(25))], cells, upright=upright)
        for upright in (False, True)
    ]
    sections = [*galleries, ReportSection("T", tables=tables), ReportSection("R", review=task)]
    path = folder / "wide.html"
    write_report(path, words[-1], words[-1], sections, provenance={"Key": words[-1]})
    browser.resize(width)
    browser.open(path)
    assert browser.run("return innerWidth") == width
    # Nothing is cut off either: what is wider scrolls in its own frame.
    outside = """
        const wide = [];
        for (const e of document.querySelectorAll("main *, header *, footer *")) {
            const box = e.getBoundingClientRect();
            if (box.right > innerWidth + 1 && !e.closest(".scroll, svg")) wide.push(e.outerHTML);
        }
        return [document.documentElement.scrollWidth, wide.map(html => html.slice(0, 200))];
    """
    assert browser.run(outside) == [width, []]
    panels = browser.run(
        "return [...document.querySelectorAll('.panels')]"
        ".map(e => getComputedStyle(e).gridTemplateColumns.split(' ').length)"
    )
    assert panels == {390: [1, 2, 2, 2], 1280: [1, 3, 8, 6], 1920: [1, 3, 8, 6]}[width]


def _text(browser, name):
    return browser.run("return document.getElementById(arguments[0]).textContent", f"review-{name}")


def _focus(browser, name):
    browser.run("document.getElementById(arguments[0]).focus()", f"review-{name}")


def _choose(browser, name, value):
    browser.run(
        "const select = document.getElementById(arguments[0]); select.value = arguments[1];"
        "select.dispatchEvent(new Event('change'));",
        f"review-{name}",
        value,
    )


def _kept(browser):
    return json.loads(browser.run("return Object.values(localStorage)[0]"))


def _download(browser, folder):
    path = folder / "review.json"
    path.unlink(missing_ok=True)
    _focus(browser, "save")
    browser.press(ENTER)
    for _ in range(600):
        if path.is_file() and path.read_bytes().endswith(b"}\n"):
            return path
        time.sleep(0.1)
    raise TimeoutError(f"{path} does not come")


def test_decisions_by_keyboard_end_in_the_file(browser, page, labels, folder):
    assert "147.png" not in _text(browser, "facts")
    # The student agrees least with 147, then 146, ...; a decision goes on to the next mask.
    browser.press("r", "a", "2", "3")  # 145 is a bee, class 2; 144 becomes of class 3
    browser.press(RIGHT, "r", LEFT, LEFT, "a", "u", DOWN, UP, "r")  # 142, 143, 142 again
    path = _download(browser, folder)
    expected = Review(
        file_sha256(str(labels)),
        accepted=frozenset([146, 145, 143]),
        rejected=frozenset([147, 142]),
        classes={144: 9},
        path=str(path),
    )
    assert read_review(path) == expected
    assert _kept(browser) == json.loads(path.read_text())
    counts = apply_review(labels, path, folder / "reviewed.json")
    assert counts == {
        "kept": NUM_MASKS - 3,
        "reclassified": 1,
        "rejected": 2,
        "below the least score": 0,
    }
    status = _text(browser, "status")
    assert status.startswith("148 of 150 masks stay: 3 accepted, 1 of another class, 144 undecided")
    browser.open(page)  # the browser has kept them
    assert _text(browser, "status") == status


def test_least_scores(browser, page, labels, folder):
    _focus(browser, "least-0")
    browser.press(RIGHT, RIGHT, RIGHT)
    assert _text(browser, "stay-0") == "72 of 75 stay, score ≥ 0.04"
    assert _text(browser, "stay-1") == "75 of 75 stay"
    _choose(browser, "show", "below")
    assert _text(browser, "facts").endswith("1 of 3")
    _focus(browser, "list")
    browser.press("a")
    assert _text(browser, "stay-0") == "73 of 75 stay, score ≥ 0.04"
    review = read_review(_download(browser, folder))
    assert review.min_scores == {3: 6 / NUM_MASKS}
    assert len(review.accepted) == 1
    counts = apply_review(labels, folder / "review.json", folder / "reviewed.json")
    assert counts["below the least score"] == 2


def test_pages_and_the_list_of_classes(browser, page):
    assert _text(browser, "page") == "page 1 of 3"
    browser.press(PAGE_DOWN)
    assert _text(browser, "page") == "page 2 of 3"
    browser.press(END)
    assert _text(browser, "facts").endswith("148 of 148")
    assert "ant, undecided" in _text(browser, "facts")
    browser.press("w", "b", "r")  # typed into the list of classes, where nothing is decided
    assert "0 of another class" in _text(browser, "status")
    browser.press(ENTER)
    assert _kept(browser)["reclassified"] == [{"id": 0, "category_id": 5}]
    browser.press("a")
    assert _kept(browser)["accepted"] == [0]
    _choose(browser, "order", "score")
    _choose(browser, "class", "1")
    assert _text(browser, "facts").startswith("bee")
    assert _text(browser, "facts").endswith("1 of 74")
    # Nobody knows the truth here.
    orders = browser.run("return document.getElementById('review-order').textContent")
    assert "the student" in orders
    assert "the truth" not in orders


def test_a_heeded_review_is_where_the_page_begins(browser, folder, task):
    done = Review(task.labels_sha256, {5: 0.5}, frozenset([147]), frozenset([146]), {145: 3})
    section = ReportSection("Review", review=replace(task, done=done))
    write_report(folder / "again.html", "Report", "Text.", [section])
    browser.open(folder / "again.html")
    browser.run("localStorage.clear()")
    browser.open(folder / "again.html")
    assert "1 accepted, 1 of another class" in _text(browser, "status")
    assert _text(browser, "stay-1") == "38 of 75 stay, score ≥ 0.5"
    assert read_review(_download(browser, folder)) == replace(
        done, path=str(folder / "review.json")
    )


def _wait_for_status(browser, text):
    for _ in range(600):
        if text in _text(browser, "status"):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the status does not say {text!r}: {_text(browser, 'status')}")


def test_a_review_from_elsewhere_is_taken_up(browser, page, folder, task):
    content = Review(task.labels_sha256, {}, frozenset([1, 2, 3]), frozenset([4])).to_json()
    path = folder / "elsewhere.json"
    for changes, message in (
        ({"labels_sha256": "0" * 64}, "'elsewhere.json' cannot be taken up: it is of other labels"),
        ({"rejected": [NUM_MASKS]}, "it names an unknown mask"),
        ({}, "3 accepted, 0 of another class, 146 undecided; 1 rejected"),
    ):
        write_json(path, {**content, **changes})
        browser.give_file("#review-open", path)
        _wait_for_status(browser, message)
