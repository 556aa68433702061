"""Pseudo labels in the formats of other tools, read again by readers that are not ours."""

import contextlib
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import json_values
from detectron2.data.datasets import load_coco_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from wsis_d2.data import convert_voc_instances_to_coco, load_voc_image_labels
from wsis_d2.errors import UserError
from wsis_d2.evaluation.export import (
    EXPORT_FORMATS,
    LOCAL_FILES,
    Selection,
    encode_brush,
    export_labels,
)

SIZE = (40, 60)
NAMES = ("a.jpg", "beach/b ü.png", "c.jpg", "d.jpg")


def blank():
    return np.zeros(SIZE, bool)


def plain(y, x, height, width):
    mask = blank()
    mask[y : y + height, x : x + width] = True
    return mask


FRAME = plain(5, 5, 20, 20) & ~plain(10, 10, 4, 5)
PIECES = plain(2, 30, 10, 10) | plain(20, 45, 8, 8)
DOT = plain(39, 59, 1, 1)
SQUARE = plain(20, 10, 15, 15)  # overlaps the frame
LARGE = plain(0, 0, 40, 60)
COVERED = plain(21, 11, 3, 3)

#: Image, class, score and mask.
MASKS = [
    (0, "dog", 0.9, FRAME),
    (0, "cat", 0.5, SQUARE),
    (0, "dog", 0.4, DOT),
    (0, "cat", 0.3, COVERED),
    (1, "cat", 0.8, PIECES),
    (2, "dog", 0.7, LARGE),
]
CATEGORIES = {"dog": 3, "cat": 7}


def rle_of(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {**rle, "counts": rle["counts"].decode()}


def annotation(number, image, name, score, mask, **more):
    return {
        "id": number,
        "image_id": 100 + image,
        "category_id": CATEGORIES[name],
        "segmentation": rle_of(mask),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "score": score,
        **more,
    }


def dataset():
    annotations = [annotation(i, *entry) for i, entry in enumerate(MASKS, start=1)]
    annotations.append(annotation(50, 2, "cat", 1.0, plain(0, 50, 40, 10), iscrowd=1))
    return {
        "info": {"generator": "IRNetLabels", "version": "wsis_d2 0.1.0"},
        "images": [
            {"id": 100 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for i, name in enumerate(NAMES)
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for name, id_ in CATEGORIES.items()],
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (i, 0, 0)).save(folder / name)
    return folder


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(dataset()))
    return path


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def same(found, expected):
    """Whether two lists of (image, class, mask) are the same, in any order."""

    def keys(entries):
        return sorted((str(i), str(name), mask.tobytes()) for i, name, mask in entries)

    return keys(found) == keys(expected)


def expected_masks(images=range(4)):
    return [(NAMES[i], name, mask) for i, name, _, mask in MASKS if i in images]


# COCO polygons: pycocotools and Detectron2


def test_coco_polygons(labels, photos, tmp_path):
    summary = export_labels(labels, "coco-polygons", tmp_path / "out", image_root=str(photos))
    assert summary.startswith("6 masks of 3 images (train 3) are in")
    assert "left out: 1 images without a mask" in summary
    path = tmp_path / "out/annotations/instances_train.json"
    coco = COCO(str(path))
    found = [
        (coco.imgs[a["image_id"]]["file_name"], coco.cats[a["category_id"]]["name"], a)
        for a in coco.anns.values()
    ]
    objects = [f for f in found if not f[2]["iscrowd"]]
    masks = [(file, name, coco.annToMask(a).astype(bool)) for file, name, a in objects]
    assert same(masks, expected_masks())
    assert {type(a["segmentation"]) for *_, a in objects} == {list}
    assert [len(a["segmentation"]) for *_, a in objects] == [1, 1, 1, 1, 2, 1]
    assert [a["score"] for *_, a in objects] == [score for _, _, score, _ in MASKS]
    (crowd,) = (a for *_, a in found if a["iscrowd"])
    assert coco.annToMask(crowd).sum() == 400
    assert sorted(coco.cats) == [3, 7]

    images = load_coco_json(str(path), str(tmp_path / "out/images"))
    assert len(images) == 3
    assert all(os.path.isfile(image["file_name"]) for image in images)
    assert [len(image["annotations"]) for image in images] == [4, 1, 2]


# YOLO: the rules of Ultralytics' reader, written anew


def read_yolo(folder, split):
    """(file, class, mask) by the rules of Ultralytics: a label's path is the image's with "labels"
    in the place of "images"; at least three points in 0 .. 1; pixels are cut, filled by parity."""
    content = yaml.safe_load((folder / "data.yaml").read_text())
    root = folder / content[split]
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        text_file = str(path).replace(f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}")
        lines = Path(text_file).with_suffix(".txt").read_text().splitlines()
        with Image.open(path) as image:
            width, height = image.size
        for line in lines:
            label, *numbers = line.split()
            points = np.array(numbers, np.float32).reshape(-1, 2)
            assert len(points) >= 3
            assert (points >= 0).all()
            assert (points <= 1).all()
            mask = np.zeros((height, width), np.uint8)
            pixels = points * np.float32([width, height])
            cv2.fillPoly(mask, [pixels.astype(np.int32)], 1)
            rounded = np.zeros_like(mask)
            cv2.fillPoly(rounded, [np.round(pixels).astype(np.int32)], 1)
            np.testing.assert_array_equal(mask, rounded)
            yield path.relative_to(root).as_posix(), content["names"][int(label)], mask > 0


def test_yolo(labels, photos, tmp_path):
    summary = export_labels(
        labels, "yolo-seg", tmp_path / "out", image_root=str(photos), val="0.34"
    )
    found = [*read_yolo(tmp_path / "out", "train"), *read_yolo(tmp_path / "out", "val")]
    pieces = next(entry for entry in found if entry[0] == NAMES[1])
    others = [entry for entry in found if entry is not pieces]
    assert same(others, expected_masks(images=(0, 2)))
    assert pieces[1] == "cat"
    assert pieces[2][PIECES].all()
    assert iou(pieces[2], PIECES) > 0.93  # the line from piece to piece
    assert "1 of 6 masks have several pieces: tied together by lines one pixel wide" in summary
    assert "1 of 6 masks have holes: tied to the outline" in summary
    assert "left out: 1 regions to ignore, which the format does not know" in summary
    assert len(list((tmp_path / "out/images/val").rglob("*.*"))) == 1


def test_yolo_without_images_and_val(labels, tmp_path):
    export_labels(labels, "yolo-seg", tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert content == {
        "train": "images/train",
        "val": "images/train",
        "names": {0: "dog", 1: "cat"},
    }
    assert not (tmp_path / "out/images").exists()


def test_supervision_reads_yolo_coco_and_voc(labels, photos, tmp_path):
    sv = pytest.importorskip("supervision")
    content = dataset()
    for image in content["images"]:
        image["file_name"] = os.path.basename(image["file_name"])  # it looks into no folders
    labels.write_text(json.dumps(content))
    (photos / NAMES[1]).rename(photos / os.path.basename(NAMES[1]))
    for name in ("yolo-seg", "coco-polygons", "voc"):
        export_labels(labels, name, tmp_path / name, image_root=str(photos))

    def masks(read):
        return [
            (os.path.basename(file), read.classes[label], mask)
            for file, _, found in read
            for mask, label in zip(found.mask, found.class_id)
        ]

    expected = [(os.path.basename(f), name, mask) for f, name, mask in expected_masks()]
    yolo = tmp_path / "yolo-seg"
    read = sv.DetectionDataset.from_yolo(
        str(yolo / "images/train"), str(yolo / "labels/train"), str(yolo / "data.yaml")
    )
    for found, wanted in zip(sorted(masks(read), key=str), sorted(expected, key=str)):
        assert found[:2] == wanted[:2]
    exact = [e for e in expected if e[2] is not PIECES]
    assert same([m for m in masks(read) if m[0] != os.path.basename(NAMES[1])], exact)

    voc = tmp_path / "voc"
    read = sv.DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))
    boxes = [
        (os.path.basename(file), read.classes[label], *box)
        for file, _, found in read
        for box, label in zip(found.xyxy.tolist(), found.class_id)
    ]
    assert ("c.jpg", "dog", 0.0, 0.0, 60.0, 40.0) in boxes
    assert len(boxes) == 5


# VOC: Pillow, and the reader of devkits


def test_voc(labels, photos, tmp_path):
    summary = export_labels(labels, "voc", tmp_path / "out", image_root=str(photos), val="0.34")
    root = tmp_path / "out"
    with Image.open(root / "SegmentationObject/a.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]
        objects = np.array(image)
    classes = np.array(Image.open(root / "SegmentationClass/a.png"))
    np.testing.assert_array_equal(objects == 1, FRAME)  # the better one keeps the pixels
    np.testing.assert_array_equal(objects == 2, SQUARE & ~FRAME)
    np.testing.assert_array_equal(objects == 3, DOT)
    np.testing.assert_array_equal(classes, np.select([objects == 2, objects > 0], [2, 1]))
    assert (root / "classes.txt").read_text() == "dog\ncat\n"
    assert "1 of 6 masks are covered by masks of a higher score: left out" in summary
    assert "1 of 6 masks overlap masks of a higher score, which keep the pixels" in summary

    lists = {n: (root / f"ImageSets/Segmentation/{n}.txt").read_text().split("\n") for n in
             ("train", "val", "trainval")}  # fmt: skip
    assert sorted(lists["train"] + lists["val"]) == sorted(["", *lists["trainval"]])
    assert (root / "JPEGImages/beach_b ü.png").is_file()
    tree = ET.parse(root / "Annotations/a.xml")
    boxes = [[int(n.text) for n in box] for box in tree.iterfind("object/bndbox")]
    assert boxes == [[6, 6, 25, 25], [11, 21, 25, 35], [60, 40, 60, 40]]
    assert [n.text for n in tree.iterfind("object/name")] == ["dog", "cat", "dog"]
    assert [tree.findtext(f"size/{n}") for n in ("width", "height")] == ["60", "40"]


def test_voc_by_the_reader_of_devkits(labels, tmp_path):
    content = dataset()
    content["images"][1]["file_name"] = "b.jpg"
    labels.write_text(json.dumps(content))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", SIZE[::-1]).save(photos / name)
    export_labels(labels, "voc", tmp_path / "out", image_root=str(photos))
    dicts = load_voc_image_labels(str(tmp_path / "out"), "Segmentation/train", ["dog", "cat"])
    assert [d["image_labels"] for d in dicts] == [[0, 1], [1], [0]]
    convert_voc_instances_to_coco(
        str(tmp_path / "out"), "Segmentation/train", ["dog", "cat"], str(tmp_path / "gt.json")
    )
    coco = COCO(str(tmp_path / "gt.json"))
    masks = [coco.annToMask(a).astype(bool) for a in coco.anns.values()]
    for mask in (FRAME, DOT, PIECES, LARGE):
        assert max(iou(mask, found) for found in masks) == 1


def test_voc_has_room_for_254(labels, tmp_path):
    content = dataset()
    dots = [np.zeros(SIZE[0] * SIZE[1], bool) for _ in range(300)]
    for i, dot in enumerate(dots):
        dot[i] = True
    content["annotations"] = [
        annotation(i, 0, "dog", 1 - i / 1000, dot.reshape(SIZE)) for i, dot in enumerate(dots)
    ]
    labels.write_text(json.dumps(content))
    summary = export_labels(labels, "voc", tmp_path / "out")
    assert "46 of 300 masks are beyond the best 254 of their image: left out" in summary
    objects = np.array(Image.open(tmp_path / "out/SegmentationObject/a.png"))
    assert objects.ravel()[:256].tolist() == [*range(1, 255), 0, 0]
    content["categories"] = [{"id": i, "name": f"c{i}"} for i in range(1, 256)]
    labels.write_text(json.dumps(content))
    with pytest.raises(UserError, match="room for 254 classes, but there are 255"):
        export_labels(labels, "voc", tmp_path / "more")
    assert not (tmp_path / "more").exists()


# Label Studio: the published decoder of rle-pack, and its rules for tasks


def read_brush(numbers):
    """rle-pack's decoder: a stream of bits, see github.com/thi-ng/umbrella, packages/rle-pack."""
    bits = "".join(f"{number:08b}" for number in numbers)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        repeats = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeats else [read(word) for _ in range(length)]
    assert len(values) == number
    assert place <= len(bits) < place + 8
    return np.array(values, np.uint8)


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_brush(mask):
    rgba = read_brush(encode_brush(mask).tolist()).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(rgba, 255 * mask[:, :, None].repeat(4, axis=2))


def test_brush_of_long_runs():
    mask = np.zeros((300, 300), bool)
    mask[50:250] = True
    rgba = read_brush(encode_brush(mask).tolist())
    np.testing.assert_array_equal(rgba[3::4].reshape(300, 300) > 0, mask)


def test_label_studio(labels, photos, tmp_path):
    labels.write_text(json.dumps(edited(annotations__0__score=-2, annotations__5__score=30)))
    export_labels(labels, "label-studio", tmp_path / "out", image_root=str(photos))
    tasks = json.loads((tmp_path / "out/tasks_train.json").read_text())
    config = ET.parse(tmp_path / "out/labeling_config.xml").getroot()
    image, brush = config.find("Image"), config.find("BrushLabels")
    assert [label.get("value") for label in brush] == ["dog", "cat"]
    assert brush.get("toName") == image.get("name")
    found = []
    for task in tasks:
        assert set(task) == {"data", "predictions"}
        key = image.get("value").removeprefix("$")
        assert task["data"][key].startswith(LOCAL_FILES)
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "IRNetLabels wsis_d2 0.1.0"
        assert 0 <= prediction["score"] <= 1
        assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == (brush.get("name"), "image")
            assert region["type"] == "brushlabels"
            assert region["value"]["format"] == "rle"
            size = region["original_height"], region["original_width"]
            mask = read_brush(region["value"]["rle"]).reshape(*size, 4)[:, :, 3] > 0
            found.append((task["data"]["file_name"], *region["value"]["brushlabels"], mask))
    assert same(found, expected_masks())
    assert tasks[1]["data"]["image"] == LOCAL_FILES + "beach/b%20%C3%BC.png"
    assert (tmp_path / "out/images" / NAMES[1]).is_file()


# FiftyOne: the layout that its importer looks for


def test_fiftyone(labels, photos, tmp_path):
    export_labels(
        labels, "fiftyone", tmp_path / "out", image_root=str(photos), link_images=True, val="0.34"
    )
    found = []
    for split in ("train", "val"):
        content = json.loads((tmp_path / "out" / split / "labels.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        for file in files.values():
            link = tmp_path / "out" / split / "data" / file
            assert link.is_symlink()
            assert link.resolve() == (photos / file).resolve()
        for a in content["annotations"]:
            assert set(a) <= {
                *"id image_id category_id segmentation bbox area iscrowd score".split()
            }
            x, y, width, height = map(round, a["bbox"])
            mask = mask_utils.decode(a["segmentation"])
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            if not a["iscrowd"]:
                found.append((files[a["image_id"]], names[a["category_id"]], mask.astype(bool)))
    assert same(found, expected_masks())


# What is exported


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_selection(name, labels, tmp_path):
    selection = Selection(min_score=0.35, min_area=2, classes=["cat", "dog"])
    summary = export_labels(labels, name, tmp_path / "out", selection=selection)
    assert summary.startswith("4 masks of 3 images (train 3) are in")
    assert "left out: 1 masks with a score below 0.35" in summary
    assert "left out: 1 masks of less than 2 pixels" in summary
    content = json.loads(labels.read_text())
    ids = {c["id"] for c in content["categories"] if c["name"] in selection.classes}
    scores = sorted(
        a["score"]
        for a in content["annotations"]
        if a["category_id"] in ids and not a.get("iscrowd")
    )
    low, middle, high = scores[0], np.median(scores), scores[-1]
    assert f"all scores: {low:.3g} to {high:.3g}, half of them below {middle:.3g}" in summary
    text = "".join(
        p.read_text()
        for p in sorted((tmp_path / "out").rglob("*"))
        if p.suffix in (".yaml", ".txt")
    )
    if name in ("yolo-seg", "voc"):
        assert re.search("cat.*dog", text, re.DOTALL)


@pytest.mark.parametrize(("max_hole", "filled"), [(0, 0), (3, 0), (4, 2), (100, 3)])
def test_small_holes_are_filled(max_hole, filled, tmp_path):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[2:28, 2:38] = 1
    whole = mask.copy()
    mask[5:7, 5:7] = mask[10:12, 10:12] = 0
    mask[15:20, 15:20] = 0
    rle = mask_utils.encode(np.asfortranarray(mask))
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "score": 0.5}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {**annotation, "segmentation": {**rle, "counts": rle["counts"].decode()}},
        ],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    selection = Selection(max_hole=max_hole)
    summary = export_labels(
        tmp_path / "labels.json", "fiftyone", tmp_path / "out", selection=selection
    )
    assert (f"filled: {filled} holes of at most {max_hole} pixels" in summary) == bool(filled)
    written = json.loads((tmp_path / "out/train/labels.json").read_text())
    found = mask_utils.decode(written["annotations"][0]["segmentation"])
    if filled < 3:
        whole[15:20, 15:20] = 0
    if not filled:
        whole = mask
    assert np.array_equal(found, whole)


def test_classes_that_are_left_out(labels, tmp_path):
    selection = Selection(classes=["cat"], keep_empty=True)
    summary = export_labels(labels, "yolo-seg", tmp_path / "out", selection=selection)
    assert "4 images" in summary
    assert "left out: 3 masks of other classes" in summary
    lines = {p.stem: p.read_text() for p in (tmp_path / "out/labels/train").rglob("*.txt")}
    assert set(lines) == {"a", "b ü", "c", "d"}
    assert lines["d"] == ""
    assert {line.split()[0] for text in lines.values() for line in text.splitlines()} == {"0"}


def test_val_is_drawn_the_same_again_or_listed(labels, tmp_path):
    drawn = []
    for i in range(2):
        export_labels(labels, "voc", tmp_path / f"{i}", val="0.67")
        drawn.append((tmp_path / f"{i}/ImageSets/Main/val.txt").read_text())
    assert drawn[0] == drawn[1]
    assert len(drawn[0].splitlines()) == 2
    (tmp_path / "val.txt").write_text("a\n\n./beach/b ü.png\nunknown.jpg\n")
    export_labels(labels, "voc", tmp_path / "listed", val=str(tmp_path / "val.txt"))
    assert (tmp_path / "listed/ImageSets/Main/val.txt").read_text() == "a\nbeach_b ü\n"


@pytest.mark.parametrize("val", ["0.9", "list"])
def test_val_leaves_something_to_train_on(val, labels, tmp_path):
    if val == "list":
        val = str(tmp_path / "val.txt")
        Path(val).write_text("\n".join(NAMES))
    with pytest.raises(UserError, match="takes all 3 images"):
        export_labels(labels, "yolo-seg", tmp_path / "out", val=val)


def test_yolo_finds_the_labels_of_images_in_a_folder_images(photos, tmp_path):
    """As Ultralytics does: the last /images/ of a path becomes /labels/."""
    content = dataset()
    name = "images/x/images/1.jpg"
    (photos / name).parent.mkdir(parents=True)
    shutil.copy(photos / content["images"][0]["file_name"], photos / name)
    content["images"][0]["file_name"] = name
    (tmp_path / "labels.json").write_text(json.dumps(content))
    export_labels(tmp_path / "labels.json", "yolo-seg", tmp_path / "out", image_root=str(photos))
    (image,) = (tmp_path / "out").rglob("1.jpg")
    before, _, after = str(image.with_suffix(".txt")).rpartition("/images/")
    assert Path(f"{before}/labels/{after}").read_text()


def edited(**changes):
    """The dataset with changes, by "list_index_key"."""
    content = dataset()
    for place, value in changes.items():
        key, index, field = place.split("__")
        content[key][int(index)][field] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            edited(images__0__file_name="../x.jpg"),
            "'../x.jpg' of .* is outside of the image folder",
        ),
        (edited(images__0__file_name="/etc/x.jpg"), "is outside of the image folder"),
        (edited(images__0__file_name="c.jpg"), "'c.jpg' stands twice"),
        (edited(images__0__file_name=3), "has no file_name, height and width"),
        (edited(images__0__height=41), "annotation 1 of image 'a.jpg' .* has another size"),
        (edited(images__0__height=0), "has no file_name, height and width"),
        (edited(images__0__file_name="c.png"), "'c.png' and 'c.jpg' would have the same name"),
        (edited(annotations__0__category_id=9), "annotation 1 .* has an unknown category"),
        (edited(annotations__0__score="high"), "annotation 1 .* has a score that is no number"),
        (edited(annotations__0__score=float("nan")), "annotation 1 .* has a score that is no num"),
        (edited(images__0__file_name="a\n.jpg"), "name 'a.*.jpg' in .* cannot be shown"),
        (edited(images__0__file_name=""), "is outside of the image folder"),
        (edited(categories__0__name="\ud800"), "cannot be shown"),
        (edited(annotations__0__segmentation=[[1, 2]]), "annotation 1 .* is not a mask"),
        (edited(categories__0__name="cat"), "two categories of .* have one name"),
        ([], "not a COCO dataset file"),
    ],
)
def test_bad_labels(content, message, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        export_labels(tmp_path / "labels.json", "yolo-seg", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    place=st.sampled_from(
        [
            (key, field)
            for key, entries in dataset().items()
            if key != "info"
            for field in entries[0]
        ]
    ),
    value=json_values("size", "counts"),
    name=st.sampled_from(list(EXPORT_FORMATS)),
)
def test_anything_is_exported_or_an_error_of_ours(labels, tmp_path, place, value, name):
    key, field = place
    labels.write_text(json.dumps(edited(**{f"{key}__0__{field}": value})))
    with contextlib.suppress(UserError):
        export_labels(labels, name, tmp_path / "out")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_masks_of_no_image_are_counted(labels, tmp_path):
    labels.write_text(json.dumps(edited(annotations__0__image_id=7)))
    summary = export_labels(labels, "coco-polygons", tmp_path / "out")
    assert summary.startswith("5 masks of 3 images")
    assert "left out: 1 masks of image 7, which is not listed" in summary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"export_format": "yolo"}, "the format is 'yolo': choose one of coco-polygons, "),
        ({"val": "1.5"}, "the share of val is 1.5"),
        ({"val": "nan"}, "the share of val is nan"),
        ({"val": "none.txt"}, "list of val, 'none.txt', cannot be read"),
        ({"val": os.devnull}, "lists no image that is exported"),
        ({"selection": Selection(classes=["dgo"])}, r"class 'dgo' .*did you mean 'dog'"),
        ({"selection": Selection(min_score=2)}, r"nothing of .* is left .*its scores are .* to .*"),
        ({"image_root": "nowhere"}, "image 'nowhere/a.jpg' and 2 more, .* is absent"),
    ],
)
def test_bad_options(options, message, labels, tmp_path):
    options = {"export_format": "voc", **options}
    with pytest.raises(UserError, match=message):
        export_labels(labels, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="least score is nan"):
        Selection(min_score=float("nan"))
    with pytest.raises(UserError, match="largest hole to fill is -1"):
        Selection(max_hole=-1)


def test_an_export_is_never_mixed_with_another(labels, tmp_path):
    export_labels(labels, "voc", tmp_path / "out")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="out' is there already"):
        export_labels(labels, "yolo-seg", tmp_path / "out")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
