"""Labels without a box and boxes without a label."""

import pytest

from wsis_d2.evaluation import count_label_noise

CLASSES = ("ant", "bee", "cat")
IDS = {"ant": 7, "bee": 3, "cat": 12}


def box(image_id, name, iscrowd=0):
    return {"image_id": image_id, "category_id": IDS[name], "iscrowd": iscrowd}


BOXES = {
    "categories": [{"id": i, "name": name} for name, i in IDS.items()],
    "annotations": [
        *[box(1, "ant"), box(1, "ant"), box(1, "bee", iscrowd=1), box(2, "cat")],
        *[box(3, "cat", iscrowd=1), box(3, "bee", iscrowd=1), box(3, "bee", iscrowd=1)],
    ],
}
DATASET = [
    {"image_id": 1, "image_labels": [0, 2]},
    {"image_id": 2, "image_labels": [2]},
    {"image_id": 3, "image_labels": [0]},
]


@pytest.mark.parametrize("other_classes", [False, True])
def test_counts_by_hand(other_classes):
    counts = dict(count_label_noise(DATASET, BOXES, CLASSES, other_classes))
    expected = {
        **{"labels": 4, "labels-ant": 2, "labels-bee": 0, "labels-cat": 2},
        **{"boxes": 3, "boxes-ant": 2, "boxes-bee": 0, "boxes-cat": 1},
        **{"labels without a box": 2, "labels without a box-ant": 1},
        **{"labels without a box-bee": 0, "labels without a box-cat": 1},
    }
    if other_classes:
        expected |= {"boxes without a label": 4, "boxes without a label-ant": 0}
        expected |= {"boxes without a label-bee": 3, "boxes without a label-cat": 1}
    assert counts == expected
