"""Points, boxes and masks of some images: what a COCO JSON gives, and what is refused."""

import json
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from wsis_d2.data import (
    StrongerLabel,
    read_stronger_labels,
    replace_dataset,
    resize_stronger_label,
)
from wsis_d2.errors import UserError
from wsis_d2.structures import decode_mask, encode_mask

NAME = "test_stronger_labels"
SIZE = (20, 30)
SQUARE = np.zeros(SIZE, bool)
SQUARE[4:9, 10:16] = True


@pytest.fixture
def read(tmp_path):
    """Reads a file with these annotations, and changes of its other parts."""
    dicts = [
        {
            "file_name": str(tmp_path / "images" / name),
            "image_id": image_id,
            "height": SIZE[0],
            "width": SIZE[1],
            "image_labels": [0, 1],
        }
        for image_id, name in ((1, "a.jpg"), (2, "more/b.jpg"))
    ]
    root = str(tmp_path / "images")
    replace_dataset(NAME, lambda: dicts, thing_classes=["cat", "dog"], image_root=root)
    path = tmp_path / "some.json"

    def run(*annotations, **changes):
        content = {
            "images": [{"id": "x", "file_name": "more/b.jpg"}, {"id": 7, "file_name": "./a.jpg"}],
            "categories": [{"id": 5, "name": "dog"}, {"id": 9, "name": "cat"}],
            "annotations": [{"image_id": "x", "category_id": 5, **a} for a in annotations],
        }
        path.write_text(json.dumps({**content, **changes}))
        return read_stronger_labels(str(path), NAME)

    yield run
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_images_and_classes_are_known_by_their_names(read):
    labels = read({"point": [3, 4]}, {"image_id": 7, "category_id": 9, "point": [5.5, 20]})
    assert labels == {
        2: [StrongerLabel(1, point=(3.0, 4.0))],
        1: [StrongerLabel(0, point=(5.5, 20.0))],
    }
    assert read() == {}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({"bbox": [2, 3, 4, 5]}, {"box": (2, 3, 6, 8)}),
        ({"bbox": [25, -3, 10, 50], "segmentation": []}, {"box": (25, 0, 30, 20)}),
        ({"bbox": [2, 3, 4, 5], "point": [3, 4]}, {"box": (2, 3, 6, 8)}),
        ({"bbox": [2, 3, 0, 0], "point": [3, 4]}, {"point": (3, 4)}),
        ({"keypoints": [0, 0, 0, 3, 4, 2, 5, 6, 2], "segmentation": None}, {"point": (3, 4)}),
        ({"keypoints": [3, 4, 1], "bbox": [3, 4, 0, 0]}, {"point": (3, 4)}),
    ],
)
def test_what_is_given_of_an_object(read, annotation, expected):
    assert read(annotation) == {2: [StrongerLabel(1, **expected)]}


def test_masks_come_first_and_in_every_form(read):
    polygon = [[10, 4, 16, 4, 16, 9, 10, 9]]
    for segmentation in (encode_mask(SQUARE), polygon):
        ((label,),) = read({"segmentation": segmentation, "bbox": [1, 1, 2, 2]}).values()
        assert label.kind == "mask"
        assert np.array_equal(decode_mask(label.mask), SQUARE)


def test_crowd_regions_are_left_out(read):
    crowd = {"segmentation": encode_mask(SQUARE), "iscrowd": 1}
    assert [len(labels) for labels in read(crowd, {"point": [1, 1]}).values()] == [1]
    assert read(crowd) == {}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({}, "annotation 0 of image 'b.jpg' .* no segmentation, no bbox of some area, no point"),
        ({"id": 12, "keypoints": [3, 4, 0]}, "annotation 12 of .* no visible keypoint"),
        ({"keypoints": [3, 4]}, "keypoints is not 0 numbers"),
        ({"bbox": [1, 1, 2]}, "bbox is not 4 numbers"),
        ({"bbox": [1, 1, math.nan, 2]}, "bbox is not 4 numbers"),
        ({"bbox": [1, 1, True, 2]}, "bbox is not 4 numbers"),
        ({"bbox": [30, 1, 5, 5]}, "bbox lies outside its image of 20 x 30"),
        ({"point": [31, 1]}, "point lies outside its image of 20 x 30"),
        ({"point": [1, -0.5]}, "point lies outside"),
        ({"point": "12"}, "point is not 2 numbers"),
        ({"point": [10**400, 1]}, "point is not 2 numbers"),
        ({"segmentation": encode_mask(SQUARE.T)}, "mask is not of the image's 20 x 30"),
        ({"segmentation": encode_mask(np.zeros(SIZE, bool))}, "mask is empty"),
        ({"segmentation": [[1, 2]]}, "no polygon of at least three points"),
        ({"image_id": 8, "point": [1, 1]}, "not in COCO's instance format .*8"),
        ({"category_id": 8, "point": [1, 1]}, "not in COCO's instance format .*8"),
    ],
)
def test_annotations_that_cannot_be_used(read, annotation, message):
    with pytest.raises(UserError, match=message):
        read(annotation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": "x", "file_name": "b.jpg"}]}, "'b.jpg' in .* is not in dataset"),
        ({"categories": [{"id": 5, "name": "dogs"}]}, r"class 'dogs' .*\(did you mean 'dog'\?\)"),
        (
            {"images": [{"id": "x", "file_name": "a.jpg", "height": 30, "width": 20}]},
            "'a.jpg' is of 30 x 20 pixels in .* and of 20 x 30 in dataset",
        ),
        ({"images": [{"id": i, "file_name": "a.jpg"} for i in "xy"]}, "lists .* 'a.jpg' twice"),
        ({"images": 3}, "not in COCO's instance format"),
        ({"annotations": [[]]}, "not in COCO's instance format"),
    ],
)
def test_files_of_another_dataset(read, changes, message):
    with pytest.raises(UserError, match=message):
        read({"point": [1, 1]}, **changes)


def test_a_class_of_the_file_that_nothing_has_does_not_matter(read):
    categories = [{"id": 5, "name": "dog"}, {"id": 6, "name": "horse"}]
    assert read({"point": [1, 1]}, categories=categories)


def test_a_label_on_an_image_of_another_size():
    half = (10, 15)
    assert resize_stronger_label(StrongerLabel(0, point=(9, 4)), SIZE, half).point == (4.5, 2)
    box = StrongerLabel(0, box=(2, 4, 8, 10))
    assert resize_stronger_label(box, SIZE, half).box == (1, 2, 4, 5)
    assert resize_stronger_label(box, SIZE, SIZE) is box
    mask = resize_stronger_label(StrongerLabel(0, mask=encode_mask(SQUARE)), SIZE, half).mask
    assert np.array_equal(decode_mask(mask), SQUARE[::2, ::2])
