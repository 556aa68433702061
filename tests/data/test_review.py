"""Reviews of pseudo labels: what is read and refused, and the dataset that heeds one."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from wsis_d2.data import Review, read_review, register_pseudo_labels
from wsis_d2.errors import UserError
from wsis_d2.evaluation import apply_review
from wsis_d2.files import file_sha256, write_json
from wsis_d2.structures import encode_mask

NAME = "reviewed_labels"
SHA256 = "0123456789abcdef" * 4
CONTENT = {
    "review": 1,
    "labels_sha256": SHA256,
    "min_scores": [{"category_id": 3, "score": 0.45}],
    "accepted": [17],
    "rejected": [18, "b"],
    "reclassified": [{"id": 19, "category_id": 5}],
}


@pytest.fixture
def labels(tmp_path):
    """A file of pseudo labels of two images; ids 1 to 5, category ids 3 and 7, a crowd region."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / name)
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": encode_mask(np.eye(6, 8) > 0),
            "bbox": [0, 0, 6, 6],
            "area": 6,
            "iscrowd": int(score is None),
            **({} if score is None else {"score": score}),
        }
        for number, (image_id, category_id, score) in enumerate(
            [(1, 3, 0.9), (1, 7, 0.2), (1, 3, 0.4), (2, 7, 0.6), (2, 3, 0.1), (2, 3, None)], 1
        )
    ]
    content = {
        "info": {"generator": "IRNetLabels"},
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 6, "width": 8}
            for i, name in enumerate("ab", 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    write_json(tmp_path / "labels.json", content)
    yield tmp_path / "labels.json"
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def test_a_review_survives_its_file(tmp_path):
    write_json(tmp_path / "review.json", CONTENT)
    review = read_review(tmp_path / "review.json")
    expected = Review(
        SHA256,
        {3: 0.45},
        frozenset([17]),
        frozenset([18, "b"]),
        {19: 5},
        str(tmp_path / "review.json"),
    )
    assert review == expected
    assert review.to_json() == CONTENT


@pytest.mark.parametrize(
    ("mask", "category"),
    [
        ((17, 3, 0.1), 3),  # accepted, below the least score
        ((18, 3, 0.9), None),
        ((19, 3, 0.1), 5),
        ((20, 3, 0.45), 3),
        ((20, 3, 0.44), None),
        ((20, 4, -7.0), 4),  # a class without a least score
    ],
)
def test_decisions_come_before_scores(mask, category):
    review = Review(SHA256, {3: 0.45}, frozenset([17]), frozenset([18]), {19: 5})
    assert review.category_of(*mask) == category


def _changed(**changes):
    return json.dumps({**CONTENT, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no object with the key 'review'"),
        ('{"images": []}', "no object with the key 'review'"),
        (_changed(review=2), "its version is not 1"),
        (_changed(review=True), "its version is not 1"),
        (_changed(notes="x"), "unknown key 'notes'"),
        (_changed(labels_sha256=SHA256[:-1]), "labels_sha256 is no SHA-256"),
        (_changed(labels_sha256=None), "labels_sha256 is no SHA-256"),
        (_changed(accepted={"17": True}), "accepted is no list"),
        (_changed(accepted=[[17]]), "an id in accepted is neither"),
        (_changed(accepted=[True]), "an id in accepted is neither"),
        (_changed(rejected=[1.5]), "an id in rejected is neither"),
        (_changed(reclassified=[19]), "reclassified is no list of objects"),
        (_changed(reclassified=[{"id": 19}]), "an id in reclassified is neither"),
        (_changed(min_scores=[{"category_id": 3, "score": "0.4"}]), "is no number"),
        (_changed(min_scores=[{"category_id": 3, "score": True}]), "is no number"),
        (_changed(min_scores=[{"category_id": 3, "score": float("nan")}]), "is not finite"),
        (_changed(min_scores=[{"category_id": 3, "score": 10**400}]), "is not finite"),
        (_changed(accepted=[18]), "decides twice about mask '18'"),
        (_changed(min_scores=CONTENT["min_scores"] * 2), "decides twice about category '3'"),
        ("{", "is not a JSON file"),
    ],
)
def test_what_is_no_review_is_one_sentence(tmp_path, text, message):
    (tmp_path / "review.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_review(tmp_path / "review.json")
    with pytest.raises(UserError, match="there is no file"):
        read_review(tmp_path / "none.json")


def _write_review(labels, **changes):
    path = labels.with_name("review.json")
    decided = {"accepted": [5], "rejected": [1], "reclassified": [{"id": 4, "category_id": 3}]}
    scores = {"min_scores": [{"category_id": 3, "score": 0.4}, {"category_id": 7, "score": 0.3}]}
    review = {"review": 1, "labels_sha256": file_sha256(str(labels)), **decided, **scores}
    write_json(path, {**review, **changes})
    return path


def test_the_dataset_is_that_of_the_reviewed_file(labels, tmp_path):
    review = _write_review(labels)
    apply_review(labels, review, tmp_path / "reviewed.json")
    register_pseudo_labels(NAME, str(tmp_path / "reviewed.json"), str(tmp_path))
    expected = DatasetCatalog.get(NAME)
    register_pseudo_labels(NAME, str(labels), str(tmp_path), review=str(review))
    assert DatasetCatalog.get(NAME) == expected
    kept = [[a.get("score") for a in d["annotations"]] for d in expected]
    assert kept == [[0.4], [0.6, 0.1, None]]
    assert [a["category_id"] for a in expected[1]["annotations"]] == [0, 0, 0]
    register_pseudo_labels(NAME, str(labels), str(tmp_path))
    assert [len(d["annotations"]) for d in DatasetCatalog.get(NAME)] == [3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_sha256": SHA256}, "is of other pseudo labels than .*labels.json"),
        ({"accepted": [6]}, "decides about mask 6, which"),  # the crowd region
        ({"rejected": ["1"]}, "decides about mask '1', which"),
        ({"reclassified": [{"id": 4, "category_id": 4}]}, "names category 4, which"),
        ({"min_scores": [{"category_id": 0, "score": 0.5}]}, "names category 0, which"),
    ],
)
def test_a_review_of_other_labels_is_one_sentence(labels, tmp_path, changes, message):
    review = _write_review(labels, **changes)
    register_pseudo_labels(NAME, str(labels), str(tmp_path), review=str(review))
    with pytest.raises(UserError, match=message):
        DatasetCatalog.get(NAME)
    with pytest.raises(UserError, match=message):
        apply_review(labels, review, tmp_path / "reviewed.json")
    assert not (tmp_path / "reviewed.json").exists()


def test_labels_without_ids_cannot_be_reviewed(labels, tmp_path):
    content = json.loads(labels.read_text())
    del content["annotations"][2]["id"]
    write_json(labels, content)
    review = _write_review(labels)
    with pytest.raises(UserError, match="annotation of image 1 in .* has no id"):
        apply_review(labels, review, tmp_path / "reviewed.json")
    register_pseudo_labels(NAME, str(labels), str(tmp_path), review=str(review))
    with pytest.raises(UserError, match=r"labels.json"):
        DatasetCatalog.get(NAME)
