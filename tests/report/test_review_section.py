"""The review in the report's page: a script of the page's own, and data that cannot leave it."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from wsis_d2.data import Review
from wsis_d2.report import ReviewImage, ReviewMask, ReviewTask, write_report
from wsis_d2.report.page import ReportSection

HOSTILE = "</script><script>alert('x')</script><!--"


def _task(**changes):
    image = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    masks = [
        ReviewMask(4, 1, 0.123456789012345678, 0, "M0 0 0 5 5 5 5 0Z", (None, 0.123456)),
        ReviewMask("b", 0, -2.0, agreements=(None, 0.5)),
    ]
    arguments = {
        "labels_sha256": "0" * 64,
        "classes": {7: HOSTILE, "x": "bee"},
        "masks": masks,
        "images": [ReviewImage(HOSTILE, image, [HOSTILE])],
        "agreements": ("the student", HOSTILE),
        "done": Review("0" * 64, {7: 0.5}, frozenset([4])),
    }
    return ReviewTask(**{**arguments, **changes})


def _write(path, *tasks):
    write_report(path, "A title", "", [ReportSection("Review", review=task) for task in tasks])
    return path.read_text(encoding="utf-8")


def test_the_page_runs_its_own_script_alone(tmp_path):
    text = _write(tmp_path / "r.html", _task())
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    (data_attributes, _), (attributes, script) = scripts
    assert 'type="application/json"' in data_attributes
    assert attributes == ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]+)"', text)
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert not re.search(r"https?://", text)
    assert "script-src" not in _write(tmp_path / "r.html")


def test_the_data_of_the_page(tmp_path):
    text = _write(tmp_path / "r.html", _task())
    (data,) = re.findall(r'id="review-data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(data)
    assert data["classes"] == [{"id": 7, "name": HOSTILE}, {"id": "x", "name": "bee"}]
    assert data["masks"] == [
        [4, 1, 0.123456789012345678, 0, "M0 0 0 5 5 5 5 0Z", [None, 0.123]],
        ["b", 0, -2.0, -1, "", [None, 0.5]],
    ]
    (image,) = data["images"]
    assert (image["height"], image["width"], image["labels"]) == (9, 12, [HOSTILE])
    assert image["src"].startswith("data:image/")
    assert data["done"] == _task().done.to_json()


def test_the_page_says_what_is_shown(tmp_path):
    assert "1 of the 2 pseudo masks have a picture" in _write(tmp_path / "r.html", _task())
    task = _task(masks=_task().masks[:1])
    text = _write(tmp_path / "r.html", task)
    assert "1 of the 1 pseudo masks" in text
    assert "worst" not in re.search("<section.*?</noscript>", text, re.DOTALL)[0]


def test_a_page_has_one_review(tmp_path):
    with pytest.raises(ValueError, match="a page has one review, got 2"):
        _write(tmp_path / "r.html", _task(), _task())
