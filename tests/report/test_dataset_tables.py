"""The report's tables of a dataset."""

import pytest

from wsis_d2.report.dataset_tables import MAX_CLASSES, dataset_tables

CLASSES = ("ant", "bee", "cat")
DICTS = [
    {"image_labels": [0]},
    {"image_labels": [0, 1]},
    {"image_labels": [1, 0, 1]},
    {"image_labels": [2]},
]


def test_classes_their_companions_and_sizes():
    sizes = [(10, 20), (10, 20), (30, 20)]
    classes, together, sides = dataset_tables(DICTS, CLASSES, sizes, [7, 0, 5])
    assert classes.columns == ["Class", "Images", "of all, %", "Alone", "Pseudo masks"]
    assert classes.rows == [
        ["ant", 3, pytest.approx(75), 1, 7],
        ["bee", 2, pytest.approx(50), 0, 0],
        ["cat", 1, pytest.approx(25), 1, 5],
    ]
    # A class that is never beside another one needs no row.
    assert together.columns == ["", "ant", "bee"]
    assert together.rows == [["ant", None, 2], ["bee", 2, None]]
    assert sides.rows == [
        ["Width", 20, 20, 20],
        ["Height", 10, 10, 30],
        ["Shorter side", 10, 10, 20],
        ["Longer side", 20, 20, 30],
    ]
    assert sides.note == "3 images of 2 different sizes."


def test_what_is_not_known_is_left_out():
    (classes,) = dataset_tables([{"image_labels": [2]}, {}], CLASSES)
    assert classes.columns == ["Class", "Images", "of all, %", "Alone"]
    assert [row[1] for row in classes.rows] == [0, 0, 1]


def test_of_many_classes_the_most_frequent_are_shown():
    names = [f"class {i}" for i in range(MAX_CLASSES + 5)]
    # All pairs with class 0; the later a class, the more images it has.
    dicts = [{"image_labels": [0, i]} for i in range(1, len(names)) for _ in range(i)]
    _, together = dataset_tables(dicts, names)
    assert together.columns[1:] == [names[0], *names[-MAX_CLASSES + 1 :]]
    assert together.rows[0][1:4] == [None, 6, 7]
    assert together.note.startswith(f"The {MAX_CLASSES} most frequent of {len(names)} classes.")
