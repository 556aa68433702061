"""Label maps on disk, and the true ones of a dataset."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from wsis_d2.data import (
    UNKNOWN,
    ground_truth_json,
    read_label_map,
    register_builtin_datasets,
    register_image_level_dataset,
    replace_dataset,
    semantic_truth,
    voc_palette,
    write_label_map,
)
from wsis_d2.data.catalog import register_coco_json
from wsis_d2.errors import UserError


def test_palette_is_that_of_the_devkit():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    # As the devkit's documentation lists them.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {label: tuple(palette[label]) for label in known} == known
    assert tuple(palette[255]) == (224, 224, 192)


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_a_map_survives_the_disk(tmp_path_factory, label_map):
    path = tmp_path_factory.mktemp("maps") / "sub" / "map.png"
    write_label_map(path, label_map)
    read = read_label_map(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, label_map)
    with Image.open(path) as image:
        assert image.mode == "P"
        colors = np.array(image.convert("RGB"))
    assert np.array_equal(colors, voc_palette()[label_map])


def test_gray_maps_are_read_and_colors_refused(tmp_path):
    Image.fromarray(np.array([[0, 7]], np.uint8)).save(tmp_path / "gray.png")
    assert read_label_map(tmp_path / "gray.png").tolist() == [[0, 7]]
    Image.new("RGB", (2, 2)).save(tmp_path / "color.png")
    with pytest.raises(UserError, match="mode RGB, not a map of label numbers"):
        read_label_map(tmp_path / "color.png")


def test_missing_and_damaged_maps(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        read_label_map(tmp_path / "none.png")
    path = tmp_path / "map.png"
    write_label_map(path, np.random.default_rng(0).integers(0, 9, (40, 40), np.uint8))
    content = path.read_bytes()
    for end in (0, 5, len(content) // 2):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="cannot be read"):
            read_label_map(path)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.uint8)])
def test_what_is_no_label_map_is_not_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="uint8"):
        write_label_map(tmp_path / "map.png", wrong)


def _box(image_id, category_id, y0, x0, y1, x1, **more):
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": [[float(v) for v in polygon]],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (y1 - y0) * (x1 - x0),
        "iscrowd": 0,
        **more,
    }


@pytest.fixture
def coco_json(tmp_path):
    """Two images; on the first a small box, a large one around it, and a crowd over both."""
    crowd = _box(1, 30, 0, 0, 6, 8, iscrowd=1)
    # Uncompressed run lengths, column by column: the left half.
    crowd["segmentation"] = {"size": [6, 8], "counts": [0, 24, 24]}
    annotations = [_box(1, 30, 2, 2, 4, 4), crowd, _box(1, 10, 1, 1, 5, 7)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in (1, 2)],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": 10, "name": "cat"}, {"id": 30, "name": "dog"}],
    }
    for image in content["images"]:
        Image.new("RGB", (8, 6)).save(tmp_path / image["file_name"])
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    return path


def test_instances_are_painted_from_large_to_small(coco_json):
    root = str(coco_json.parent)
    register_image_level_dataset("painted", root, str(coco_json), gt_json=str(coco_json))
    register_coco_json("painted_instances", str(coco_json), root)
    expected = np.zeros((6, 8), np.uint8)
    expected[:, :4] = UNKNOWN
    expected[1:5, 1:7] = 1
    expected[2:4, 2:4] = 2
    image = {"file_name": f"{root}/1.png", "image_id": 1, "height": 6, "width": 8}
    for name in ("painted", "painted_instances"):
        truth = semantic_truth(name)
        assert np.array_equal(truth(image), expected)
        assert not truth({**image, "image_id": 2}).any()
        assert truth({**image, "image_id": 3}) is None


def test_a_dataset_without_truth(coco_json):
    register_image_level_dataset("untold", str(coco_json.parent), str(coco_json))
    assert semantic_truth("untold") is None


def test_damaged_truth(coco_json):
    root = str(coco_json.parent)
    content = json.loads(coco_json.read_text())
    for damage in ("no mask", "cut", "list"):
        register_coco_json("damaged", str(coco_json), root)
        if damage == "no mask":
            del content["annotations"][0]["segmentation"]
            coco_json.write_text(json.dumps(content))
        else:
            coco_json.write_text("[" if damage == "cut" else "[]")
        with pytest.raises(UserError, match="is damaged or not in COCO's instance format"):
            semantic_truth("damaged")


def test_a_devkit_has_its_own_maps(datasets_root, tmp_path):
    register_builtin_datasets(str(datasets_root))
    devkit = datasets_root / "shapes"
    name = (devkit / "ImageSets/Segmentation/train.txt").read_text().split()[0]
    image = {"file_name": str(devkit / f"JPEGImages/{name}.jpg"), "height": 128, "width": 128}
    expected = np.array(Image.open(devkit / f"SegmentationClass/{name}.png"))
    assert np.array_equal(semantic_truth("shapes_train")(image), expected)
    assert semantic_truth("shapes_train")({**image, "file_name": "other.jpg"}) is None
    # The painted instances of the same devkit agree: nothing overlaps there.
    with open(ground_truth_json("shapes_train"), encoding="utf-8") as file:
        (image_id,) = [i["id"] for i in json.load(file)["images"] if name in i["file_name"]]
    painted = semantic_truth("shapes_train_instances")({**image, "image_id": image_id})
    assert np.array_equal(painted, expected)

    replace_dataset("no_maps", list, devkit_root=str(tmp_path), thing_classes=["a"])
    assert semantic_truth("no_maps") is None
