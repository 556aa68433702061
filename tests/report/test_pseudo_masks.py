"""How far pseudo masks agree, and which are to be reviewed."""

import re

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as mask_utils

from wsis_d2.data import Review
from wsis_d2.files import file_sha256, write_json
from wsis_d2.report.pseudo_masks import PseudoMasks, outline, review_task
from wsis_d2.structures import encode_mask

HEIGHT, WIDTH = 20, 30
CLASSES = ["ant", "bee"]


def _box(x0, x1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, x0:x1] = True
    return mask


def _iou(one, other):
    return (one & other).sum() / (one | other).sum()


#: (image, category, mask, score)
LABELS = [
    (1, 7, _box(0, 10), 0.9),
    (1, 7, _box(5, 15), 0.8),
    (1, 3, _box(0, 10), 0.7),
    (2, 3, _box(0, 20), 0.2),
    (3, 3, _box(2, 6), 0.5),
]
TRUTHS = [(1, 7, _box(4, 14)), (1, 3, _box(20, 30)), (2, 3, _box(0, 10))]


def _content(instances, images):
    keys = ("image_id", "category_id", "segmentation", "score")
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in images
        ],
        "annotations": [
            {"id": 10 + n, "iscrowd": 0, **dict(zip(keys, (i, c, encode_mask(m), *rest)))}
            for n, (i, c, m, *rest) in enumerate(instances)
        ],
        # Not in the order of the ids.
        "categories": [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}],
    }


@pytest.fixture
def files(tmp_path):
    write_json(tmp_path / "labels.json", _content(LABELS, (1, 2, 3, 4)))
    write_json(tmp_path / "gt.json", _content(TRUTHS, (1, 2, 9)))
    for image_id in (1, 2, 3, 4):
        picture = np.full((HEIGHT, WIDTH, 3), 40 * image_id, np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{image_id}.png")
    return str(tmp_path / "labels.json"), str(tmp_path / "gt.json")


def test_agreement_with_the_truth(files):
    masks = PseudoMasks(*files)
    assert masks.classes == {3: "ant", 7: "bee"}
    assert masks.count(["bee", "ant", "cat"]) == [2, 3, 0]
    found = {m.id: (m.label, m.truth) for ms in masks.by_image.values() for m in ms}
    bee = TRUTHS[0][2]
    assert found == {
        10: (1, pytest.approx(_iou(LABELS[0][2], bee))),
        11: (1, pytest.approx(_iou(LABELS[1][2], bee))),
        12: (0, 0.0),
        13: (0, pytest.approx(0.5)),
        14: (0, None),  # nothing is known of image 3
    }
    # Of image 1: the better bee, and an ant that is missed; 9 was not labelled.
    covered = (_iou(LABELS[1][2], bee) + 0) / 2
    assert masks.failures(5) == [(1, pytest.approx(covered)), (2, pytest.approx(0.5))]
    assert masks.failures(1) == [(1, pytest.approx(covered))]


def test_without_truth_nothing_is_a_failure(files):
    masks = PseudoMasks(files[0])
    assert masks.failures(5) == []
    assert {m.truth for ms in masks.by_image.values() for m in ms} == {None}


def test_masks_as_instances(files):
    masks = PseudoMasks(*files)
    instances = masks.instances(1, (HEIGHT, WIDTH), ["bee", "cat", "ant"])
    expected = [mask for image_id, _, mask, _ in LABELS if image_id == 1]
    assert (instances.pred_masks.numpy() == np.stack(expected)).all()
    assert instances.pred_classes.tolist() == [0, 0, 2]
    assert instances.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(masks.instances(4, (HEIGHT, WIDTH), CLASSES)) == 0


def _task(files, tmp_path, truth=True, **options):
    masks = PseudoMasks(*files) if truth else PseudoMasks(files[0])
    records = {
        i: {"image_id": i, "file_name": str(tmp_path / f"{i}.png"), "image_labels": [0, 1]}
        for i in (1, 2, 3, 4)
    }
    predicted = []

    def predict(record):
        predicted.append(record["image_id"])
        masks = np.stack([_box(0, 9), _box(0, 10)])
        return {
            "instances": Instances(
                (HEIGHT, WIDTH),
                pred_masks=torch.from_numpy(masks),
                scores=torch.tensor([0.9, 0.4]),
                pred_classes=torch.tensor([1, 0]),
            )
        }

    return review_task(masks, records, CLASSES, predict, **options), predicted


def test_what_is_to_be_reviewed(files, tmp_path):
    task, predicted = _task(files, tmp_path)
    assert predicted == [1, 2, 3]  # 4 has no mask
    assert [image.name for image in task.images] == ["1.png", "2.png", "3.png"]
    assert task.images[1].labels == CLASSES
    assert (task.images[1].image == 80).all()
    assert task.labels_sha256 == file_sha256(files[0])
    assert task.agreements == ("the student", "the truth")
    found = {mask.id: mask for mask in task.masks}
    assert len(task.masks) == len(found) == 5
    assert found[10].agreements == (
        pytest.approx(0.9),
        pytest.approx(_iou(_box(0, 10), _box(4, 14))),
    )
    # The prediction of its class has a low score.
    assert found[12].agreements == (0, 0)
    assert found[14].agreements == (0, None)
    assert [found[i].image for i in (10, 11, 12, 13, 14)] == [0, 0, 0, 1, 2]
    assert found[13].outline == "M0 5 0 15 20 15 20 5Z"


@pytest.mark.parametrize(
    ("truth", "done", "shown"),
    [
        (True, None, ["1.png"]),  # an ant that overlaps no true one
        (False, None, ["2.png"]),  # the lowest score
        (False, Review("", accepted=frozenset([13])), ["3.png"]),  # ... that is undecided
    ],
)
def test_the_worst_images_are_shown(files, tmp_path, truth, done, shown):
    task, predicted = _task(files, tmp_path, truth=truth, done=done, max_images=1)
    assert [image.name for image in task.images] == shown
    assert len(predicted) == 1
    assert len(task.masks) == 5
    assert {m.outline == "" for m in task.masks if m.image < 0} == {True}
    assert task.done is done


def _filled(path, size):
    """The mask of an SVG path, filled by parity."""
    filled = np.zeros(size, bool)
    for ring in re.findall(r"M([\d ]+)Z", path):
        polygon = [float(value) for value in ring.split()]
        filled ^= mask_utils.decode(mask_utils.frPyObjects([polygon], *size))[..., 0] > 0
    return filled


def test_outlines_enclose_the_masks():
    y, x = np.mgrid[:90, :120]
    ring = (np.hypot(y - 45, x - 60) < 40) & (np.hypot(y - 45, x - 60) > 15)
    assert _iou(_filled(outline(ring, ring.shape), ring.shape), ring) > 0.95
    half = _filled(outline(ring, (45, 60)), (45, 60))
    assert _iou(half, ring[::2, ::2]) > 0.9
    square = _box(3, 9)
    assert (_filled(outline(square, square.shape), square.shape) == square).all()


def test_a_mask_too_small_for_its_picture_is_a_pixel():
    mask = np.zeros((90, 120), bool)
    mask[31, 61] = True
    assert _filled(outline(mask, (30, 40)), (30, 40)).nonzero() == ([10], [20])
    assert outline(np.zeros((90, 120), bool), (30, 40)) == "M0 0 0 1 1 1 1 0Z"
