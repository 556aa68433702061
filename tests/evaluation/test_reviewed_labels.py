"""The file of pseudo labels that a review leaves."""

import json

import numpy as np
import pytest

from wsis_d2.errors import UserError
from wsis_d2.evaluation import apply_review
from wsis_d2.files import file_sha256, write_json
from wsis_d2.structures import encode_mask


@pytest.fixture
def labels(tmp_path):
    rle = encode_mask(np.eye(6, 8) > 0)
    scores = [0.9, 0.4, 0.4, 0.1]
    annotations = [
        {"id": i, "image_id": 5, "category_id": 1, "segmentation": rle, "score": s, "iscrowd": 0}
        for i, s in enumerate(scores, 11)
    ]
    annotations.append({"id": 9, "image_id": 5, "category_id": 1, "segmentation": rle})
    annotations[-1]["iscrowd"] = 1
    content = {
        "info": {"seed": 3},
        "images": [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in (5, 6)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    write_json(tmp_path / "labels.json", content)
    return tmp_path / "labels.json"


def _review(labels, **decisions):
    path = labels.with_name("review.json")
    write_json(path, {"review": 1, "labels_sha256": file_sha256(str(labels)), **decisions})
    return path


def test_what_is_left_and_what_is_counted(labels, tmp_path):
    before = json.loads(labels.read_text())
    review = _review(
        labels,
        min_scores=[{"category_id": 1, "score": 0.5}],
        accepted=[14],
        rejected=[11],
        reclassified=[{"id": 12, "category_id": 2}],
    )
    counts = apply_review(labels, review, tmp_path / "out" / "reviewed.json")
    expected = {"kept": 1, "reclassified": 1, "rejected": 1, "below the least score": 1}
    assert counts == expected
    after = json.loads((tmp_path / "out" / "reviewed.json").read_text())
    _, second, _, fourth, crowd = before["annotations"]
    assert after["annotations"] == [{**second, "category_id": 2}, fourth, crowd]
    assert {k: after[k] for k in ("images", "categories")} == {
        k: before[k] for k in ("images", "categories")
    }
    hashes = {"review_sha256": file_sha256(str(review)), "labels_sha256": file_sha256(str(labels))}
    assert after["info"] == {"seed": 3, "review": {**hashes, **expected}}


def test_a_review_without_decisions_keeps_all(labels, tmp_path):
    apply_review(labels, _review(labels), tmp_path / "reviewed.json")
    after = json.loads((tmp_path / "reviewed.json").read_text())
    assert after["annotations"] == json.loads(labels.read_text())["annotations"]


def test_the_reviewed_file_is_not_overwritten(labels):
    before = labels.read_bytes()
    with pytest.raises(UserError, match="is the reviewed file: name another output"):
        apply_review(labels, _review(labels), labels)
    assert labels.read_bytes() == before


def test_damaged_labels_are_one_sentence(labels, tmp_path):
    content = json.loads(labels.read_text())
    content["annotations"][1]["score"] = "high"
    write_json(labels, content)
    with pytest.raises(UserError, match="score of annotation 12 in .* is not a number"):
        apply_review(labels, _review(labels), tmp_path / "reviewed.json")
    content["annotations"][1].update(score=0.5, id=11)
    write_json(labels, content)
    with pytest.raises(UserError, match="two annotations of .* have one id"):
        apply_review(labels, _review(labels), tmp_path / "reviewed.json")
    with pytest.raises(UserError, match=r"none.json' cannot be read"):
        apply_review(tmp_path / "none.json", _review(labels), tmp_path / "reviewed.json")
