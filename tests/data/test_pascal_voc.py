"""VOC devkits: a hand-made one, its labels, and its instances as COCO JSON."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from wsis_d2.data import (
    convert_voc_instances_to_coco,
    evaluation_dataset,
    ground_truth_json,
    load_voc_image_labels,
    register_builtin_datasets,
    register_pascal_voc,
    semantic_truth,
    voc_image_id,
)
from wsis_d2.errors import UserError

CLASSES = ("bird", "cat", "dog")
NAMES = ("2007_000027", "2008_000009")

# Two cats that touch (a void contour runs between and around them), and a dog that is one pixel
# too wide in the map of classes.
OBJECTS = np.array(
    [
        [1, 1, 255, 2, 2, 0],
        [1, 1, 255, 2, 2, 0],
        [255, 255, 255, 255, 255, 0],
        [0, 3, 3, 3, 0, 0],
    ],
    dtype=np.uint8,
)
CLASS_MAP = np.array(
    [
        [2, 2, 255, 2, 255, 0],
        [2, 255, 255, 255, 255, 0],
        [255, 255, 255, 255, 255, 0],
        [0, 3, 3, 2, 3, 0],
    ],
    dtype=np.uint8,
)


def save_map(path, values):
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(values).convert("P")
    image.putdata(values.flatten().tolist())
    image.putpalette([i for i in range(256) for _ in range(3)])
    image.save(path)


def write_xml(devkit, name, objects, height=4, width=6):
    body = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult>"
        "<part><name>head</name></part></object>"
        for label, difficult in objects
    )
    (devkit / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{body}</annotation>"
    )


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, extension in zip(NAMES, (".jpg", ".png")):
        Image.new("RGB", (6, 4)).save(root / "JPEGImages" / f"{name}{extension}")
    write_xml(root, NAMES[0], [("dog", False), ("cat", False), ("cat", True)])
    write_xml(root, NAMES[1], [("bird", True)])
    save_map(root / "SegmentationObject" / f"{NAMES[0]}.png", OBJECTS)
    save_map(root / "SegmentationClass" / f"{NAMES[0]}.png", CLASS_MAP)
    save_map(root / "SegmentationObject" / f"{NAMES[1]}.png", np.ones((4, 6), np.uint8))
    save_map(root / "SegmentationClass" / f"{NAMES[1]}.png", np.ones((4, 6), np.uint8))
    lists = root / "ImageSets"
    (lists / "Segmentation/train.txt").write_text(f"{NAMES[0]}\n")
    (lists / "Segmentation/val.txt").write_text(f"{NAMES[1]}\n")
    (lists / "Segmentation/trainval.txt").write_text(f"{NAMES[1]}\r\n{NAMES[0]}\r\n\r\n")
    (lists / "Segmentation/train_aug.txt").write_text(
        f"/JPEGImages/{NAMES[0]}.jpg /SegmentationClassAug/{NAMES[0]}.png\n"
    )
    (lists / "Main/train.txt").write_text(f"{NAMES[0]}  1\n{NAMES[1]} -1\n")
    return root


@pytest.fixture
def catalog():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_image_ids():
    assert voc_image_id("2007_000027") == 2007000027
    assert voc_image_id("000027") == 27
    ids = {voc_image_id(f"train_{i}") for i in range(1000)}
    assert len(ids) == 1000
    assert all(2**40 <= id_ < 2**53 for id_ in ids)
    # SHA-1 of "abc" begins with a9993e364706 (FIPS 180).
    assert voc_image_id("abc") == 2**40 + 0xA9993E364706


def test_labels(devkit):
    first, second = load_voc_image_labels(str(devkit), "Main/train", CLASSES)
    assert first == {
        "file_name": f"{devkit}/JPEGImages/2007_000027.jpg",
        "image_id": 2007000027,
        "height": 4,
        "width": 6,
        "image_labels": [1, 2],
        "image_counts": [2, 1],
    }
    assert second["file_name"].endswith("2008_000009.png")
    assert second["image_labels"] == [0]


def test_difficult_objects_may_be_left_out(devkit):
    (only,) = load_voc_image_labels(str(devkit), "Main/train", CLASSES, keep_difficult=False)
    assert (only["image_id"], only["image_labels"]) == (2007000027, [1, 2])
    write_xml(devkit, NAMES[0], [("dog", False), ("cat", True)])
    (only,) = load_voc_image_labels(str(devkit), "Main/train", CLASSES, keep_difficult=False)
    assert only["image_labels"] == [2]


def test_counts(devkit):
    write_xml(devkit, NAMES[0], [("dog", False), ("cat", False), ("dog", True), ("dog", False)])
    counted, _ = load_voc_image_labels(str(devkit), "Main/train", CLASSES)
    assert (counted["image_labels"], counted["image_counts"]) == ([1, 2], [1, 3])
    (counted,) = load_voc_image_labels(str(devkit), "Main/train", CLASSES, keep_difficult=False)
    assert counted["image_counts"] == [1, 2]


def test_lists(devkit):
    def ids(split):
        return [d["image_id"] for d in load_voc_image_labels(str(devkit), split, CLASSES)]

    assert ids("Segmentation/trainval") == [2008000009, 2007000027]
    assert ids("Segmentation/train_aug") == [2007000027]


def test_converted_instances(devkit, tmp_path):
    path = tmp_path / "out" / "instances.json"
    convert_voc_instances_to_coco(str(devkit), "Segmentation/trainval", CLASSES, str(path))
    written = path.read_bytes()
    assert os.listdir(path.parent) == ["instances.json"], "a temporary file is left"
    convert_voc_instances_to_coco(str(devkit), "Segmentation/trainval", CLASSES, str(path))
    assert path.read_bytes() == written

    coco = COCO(str(path))
    assert [c["name"] for c in coco.loadCats([1, 2, 3])] == list(CLASSES)
    annotations = coco.imgToAnns[2007000027]
    assert [a["category_id"] for a in annotations] == [2, 2, 3]
    for object_id, annotation in enumerate(annotations, start=1):
        mask = object_id == OBJECTS
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        ys, xs = np.nonzero(mask)
        assert annotation["area"] == mask.sum()
        width, height = np.ptp(xs) + 1, np.ptp(ys) + 1
        assert annotation["bbox"] == [xs.min(), ys.min(), width, height]
        assert annotation["iscrowd"] == 0
    assert len({a["id"] for a in coco.anns.values()}) == 4
    assert coco.imgs[2008000009]["file_name"] == "2008_000009.png"


def test_registered_split(devkit, catalog):
    register_pascal_voc("hand", str(devkit), "train", CLASSES)
    assert not (devkit / "coco_annotations").exists(), "registration must not write"
    metadata = MetadataCatalog.get("hand")
    assert metadata.thing_classes == list(CLASSES)
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
    assert metadata.supervision == "image_labels"
    assert "annotations" not in DatasetCatalog.get("hand")[0]
    assert not (devkit / "coco_annotations").exists(), "training must not need the masks"

    path = ground_truth_json("hand")
    assert path == metadata.gt_json == f"{devkit}/coco_annotations/instances_train.json"
    assert ground_truth_json("hand_instances") == path
    (instances,) = DatasetCatalog.get("hand_instances")
    assert [instances] == load_coco_json(path, f"{devkit}/JPEGImages", "hand_instances")
    (image_level,) = DatasetCatalog.get("hand")
    for key in ("file_name", "image_id", "height", "width"):
        assert instances[key] == image_level[key]
    assert [a["category_id"] for a in instances["annotations"]] == [1, 1, 2]
    decoded = mask_utils.decode(instances["annotations"][2]["segmentation"])
    np.testing.assert_array_equal(decoded, OBJECTS == 3)


def test_conversion_is_cached_until_the_list_changes(devkit, catalog):
    register_pascal_voc("hand", str(devkit), "Segmentation/train", CLASSES)
    path = ground_truth_json("hand")
    with open(path, "w") as file:
        file.write("{}")
    assert Path(ground_truth_json("hand")).read_text() == "{}"
    split = devkit / "ImageSets/Segmentation/train.txt"
    split.write_text("\n".join(NAMES))
    later = os.path.getmtime(path) + 10
    os.utime(split, (later, later))
    with open(ground_truth_json("hand")) as file:
        assert len(json.load(file)["images"]) == 2


def test_splits_without_masks_have_no_ground_truth(devkit, catalog):
    register_pascal_voc("hand", str(devkit), "Main/train", CLASSES)
    assert ground_truth_json("hand") == ""
    assert "hand_instances" not in DatasetCatalog
    assert len(DatasetCatalog.get("hand")) == 2


def test_a_split_without_masks_is_evaluated_on_one_that_has_them(devkit, catalog):
    register_pascal_voc("evaluable", str(devkit), "Segmentation/train", CLASSES)
    register_pascal_voc("all", str(devkit), "Main/train", CLASSES, evaluation_dataset="evaluable")
    assert evaluation_dataset("evaluable") == "evaluable"
    assert evaluation_dataset("all") == "evaluable"
    assert ground_truth_json("all") == ground_truth_json("evaluable") != ""
    # Both images have a label map, but only the first one is in the split that is evaluated.
    first, second = DatasetCatalog.get("all")
    truth_of = semantic_truth("all")
    assert np.array_equal(truth_of(first), CLASS_MAP)
    assert truth_of(second) is None

    # Image-level labels alone are enough to train on, as before.
    (devkit / "ImageSets/Segmentation/train.txt").unlink()
    assert ground_truth_json("all") == ""
    assert semantic_truth("all")(second) is not None
    shutil.rmtree(devkit / "SegmentationClass")
    assert semantic_truth("all") is None


def test_train_aug_is_evaluated_on_train(devkit):
    try:
        register_builtin_datasets(str(devkit.parent))
        assert evaluation_dataset("voc_2012_train_aug") == "voc_2012_seg_train"
    finally:
        register_builtin_datasets()


def test_a_read_only_devkit_keeps_its_conversion_in_the_cache(
    devkit, catalog, monkeypatch, tmp_path
):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(devkit)))
    register_pascal_voc("hand", str(devkit), "Segmentation/train", CLASSES)
    path = ground_truth_json("hand")
    assert path.startswith(str(tmp_path / "cache"))
    assert path == MetadataCatalog.get("hand_instances").json_file
    assert len(DatasetCatalog.get("hand_instances")) == 1
    assert not (devkit / "coco_annotations").exists()


def test_folder_that_cannot_be_written(devkit, catalog):
    (devkit / "coco_annotations").touch()  # a file in its place: root may write everywhere else
    register_pascal_voc("hand", str(devkit), "Segmentation/train", CLASSES)
    with pytest.raises(UserError, match=r"cannot write .*coco_annotations"):
        ground_truth_json("hand")


def test_builtin_names(devkit, catalog):
    try:
        register_builtin_datasets(str(devkit.parent))
        classes = MetadataCatalog.get("voc_2012_seg_train").thing_classes
        assert (len(classes), classes[0], classes[-1]) == (20, "aeroplane", "tvmonitor")
        assert DatasetCatalog.get("voc_2012_train_aug")[0]["image_labels"] == [
            classes.index("cat"),
            classes.index("dog"),
        ]
        for split in ("train", "val", "trainval"):
            for name in ("seg_{}", "seg_{}_instances", "main_{}"):
                assert f"voc_2012_{name.format(split)}" in DatasetCatalog
        with pytest.raises(UserError, match=r"the VOC devkit, '.*shapes', is missing"):
            DatasetCatalog.get("shapes_train")
        with pytest.raises(UserError, match=r"the list of images, '.*shapes.*', is missing"):
            DatasetCatalog.get("shapes_val_instances")
    finally:
        register_builtin_datasets()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "JPEGImages/2007_000027.jpg").unlink(), "'2007_000027' .* is absent"),
        (lambda d: (d / "Annotations/2007_000027.xml").unlink(), "the annotation file, .*missing"),
        (lambda d: (d / "Annotations/2007_000027.xml").write_text("<a>"), "in VOC's format"),
        (lambda d: (d / "Annotations/2007_000027.xml").write_text("<a/>"), "in VOC's format"),
        (
            lambda d: (d / "Annotations/2007_000027.xml").write_text(
                '<!DOCTYPE a [<!ENTITY b "cat">]><a>&b;</a>'
            ),
            "declares a document type",
        ),
        (lambda d: write_xml(d, NAMES[0], []), "'2007_000027' has no labels"),
        (lambda d: write_xml(d, NAMES[0], [("dogg", 0)]), "label 'dogg'.*did you mean 'dog'"),
        (lambda d: (d / "ImageSets/Segmentation/train.txt").unlink(), "the list of images"),
        (lambda d: (d / "ImageSets/Segmentation/train.txt").write_text("\n"), "lists no image"),
        (
            lambda d: (d / "ImageSets/Segmentation/train.txt").write_text(f"{NAMES[0]}\n" * 2),
            "lists image '2007_000027' twice",
        ),
    ],
)
def test_errors_of_labels(devkit, break_it, message):
    break_it(devkit)
    with pytest.raises(UserError, match=message):
        load_voc_image_labels(str(devkit), "Segmentation/train", CLASSES)


@pytest.mark.parametrize(
    ("folder", "values", "message"),
    [
        ("SegmentationClass", np.full((4, 6), 255, np.uint8), "has no class"),
        ("SegmentationClass", np.full((4, 6), 9, np.uint8), "has the label 9"),
        ("SegmentationClass", np.ones((5, 6), np.uint8), "differ in size"),
    ],
)
def test_errors_of_masks(devkit, tmp_path, folder, values, message):
    save_map(devkit / folder / f"{NAMES[0]}.png", values)
    with pytest.raises(UserError, match=message):
        convert_voc_instances_to_coco(
            str(devkit), "Segmentation/train", CLASSES, str(tmp_path / "x.json")
        )
    assert not (tmp_path / "x.json").exists()


def test_label_maps_must_be_maps(devkit, tmp_path):
    path = devkit / "SegmentationObject" / f"{NAMES[0]}.png"
    Image.new("RGB", (6, 4)).save(path)
    with pytest.raises(UserError, match="mode RGB"):
        convert_voc_instances_to_coco(
            str(devkit), "Segmentation/train", CLASSES, str(tmp_path / "x.json")
        )
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        convert_voc_instances_to_coco(
            str(devkit), "Segmentation/train", CLASSES, str(tmp_path / "x.json")
        )
