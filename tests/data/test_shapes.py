import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import wsis_d2.data.shapes as shapes_module
from wsis_d2.data.shapes import SHAPES_CLASSES, make_shapes_image, write_shapes
from wsis_d2.errors import UserError

NUM_TRAIN, NUM_VAL, SEED = 7, 3, 5


def folder_bytes(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def images(count: int, **kwargs):
    for index in range(count):
        yield make_shapes_image(np.random.default_rng([11, index]), **kwargs)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    assert write_shapes(root, NUM_TRAIN, NUM_VAL, SEED, num_workers=1)
    return root


# ------------------------------------------------------------------------------ make_shapes_image


def test_image_map_and_classes_agree():
    for image, instance_map, classes in images(30):
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert instance_map.shape == (128, 128)
        assert instance_map.dtype == np.uint8
        assert 1 <= len(classes) <= 8
        assert set(classes) <= set(range(len(SHAPES_CLASSES)))
        assert 1 <= len(set(classes)) <= 3
        # Ids are 1..N, none missing, and no object is a mere sliver.
        ids, areas = np.unique(instance_map, return_counts=True)
        assert ids.tolist() == list(range(len(classes) + 1))
        assert areas[1:].min() > 80


def test_benchmark_has_the_intended_variety():
    counts, areas, touching, class_ids = [], [], 0, []
    for _, instance_map, classes in images(100):
        counts.append(len(classes))
        class_ids.extend(classes)
        areas.extend(np.bincount(instance_map.ravel())[1:])
        class_map = np.append(-1, classes)[instance_map]
        same_class = (class_map[:, 1:] == class_map[:, :-1]) & (class_map[:, 1:] >= 0)
        touching += bool((same_class & (instance_map[:, 1:] != instance_map[:, :-1])).any())
    assert set(counts) == set(range(1, 9))
    assert min(areas) < 16**2
    assert max(areas) > 48**2
    assert touching > 100 / 4, "same-class neighbours that touch are what makes instances hard"
    frequencies = np.bincount(class_ids, minlength=5) / len(class_ids)
    assert frequencies.min() > 0.1


def test_distractors_are_never_labelled():
    num_different = 0
    for index in range(20):
        with_them, without_them = (
            make_shapes_image(np.random.default_rng(index), distractors=flag)
            for flag in (True, False)
        )
        # The flag leaves the objects alone, and what it paints lies outside of them (but for the
        # soft rim of one pixel).
        np.testing.assert_array_equal(with_them[1], without_them[1])
        np.testing.assert_array_equal(with_them[2], without_them[2])
        different = (with_them[0] != without_them[0]).any(2)
        num_different += bool(different.any())
        for instance_id in range(1, len(with_them[2]) + 1):
            inside = ndimage.binary_erosion(with_them[1] == instance_id)
            assert not (different & inside).any()
    assert num_different > 10


def test_class_shows_strongly_in_heads_on_about_half_of_the_objects():
    """An object without a head has no saturated pixel; where it has one, they are few."""
    saturated_parts, heads = [], 0
    for image, instance_map, classes in images(60, distractors=False):
        saturation = np.ptp(image.astype(float), axis=2) / image.max(2).clip(1)
        assert (saturation[instance_map == 0] < 0.6).mean() > 0.99
        for instance_id in range(1, len(classes) + 1):
            part = (saturation[instance_map == instance_id] > 0.7).mean()
            saturated_parts.append(part)
            heads += part > 0.01
    assert 0.35 < heads / len(saturated_parts) < 0.65
    assert np.median([part for part in saturated_parts if part > 0.01]) < 0.2


def test_objects_scale_with_the_image():
    mean_areas = [
        np.mean([(instances > 0).mean() for _, instances, _ in images(40, image_size=size)])
        for size in (48, 96)
    ]
    assert max(mean_areas) < 1.3 * min(mean_areas)


def test_max_objects():
    counts = [len(classes) for _, _, classes in images(25, max_objects=2)]
    assert set(counts) == {1, 2}


# ----------------------------------------------------------------------------------- write_shapes


def test_layout(shapes):
    names = {
        "train": [f"train_{i:06d}" for i in range(1, NUM_TRAIN + 1)],
        "val": [f"val_{i:06d}" for i in range(1, NUM_VAL + 1)],
    }
    names["trainval"] = names["train"] + names["val"]
    expected = {"shapes.json"}
    expected |= {
        f"ImageSets/{task}/{split}.txt" for task in ("Main", "Segmentation") for split in names
    }
    for folder, suffix in (
        ("JPEGImages", "jpg"),
        ("Annotations", "xml"),
        ("SegmentationObject", "png"),
        ("SegmentationClass", "png"),
    ):
        expected |= {f"{folder}/{name}.{suffix}" for name in names["trainval"]}
    assert set(folder_bytes(shapes)) == expected
    for split, ids in names.items():
        for task in ("Main", "Segmentation"):
            assert (shapes / f"ImageSets/{task}/{split}.txt").read_text().split() == ids
    assert sorted(os.listdir(shapes.parent)) == ["shapes"], "temporary folders are gone"


def test_annotations_agree_with_the_masks(shapes):
    for xml in sorted((shapes / "Annotations").iterdir()):
        annotation = ET.parse(xml).getroot()
        assert annotation.findtext("filename") == f"{xml.stem}.jpg"
        image = Image.open(shapes / "JPEGImages" / f"{xml.stem}.jpg")
        assert image.size == (128, 128)
        size = annotation.find("size")
        assert [size.findtext(k) for k in ("width", "height", "depth")] == ["128", "128", "3"]

        palette_images = [
            Image.open(shapes / folder / f"{xml.stem}.png")
            for folder in ("SegmentationObject", "SegmentationClass")
        ]
        assert [image.mode for image in palette_images] == ["P", "P"]
        instance_map, class_map = map(np.array, palette_images)
        objects = annotation.findall("object")
        assert np.unique(instance_map).tolist() == list(range(len(objects) + 1))
        assert not class_map[instance_map == 0].any()
        for instance_id, element in enumerate(objects, start=1):
            mask = instance_map == instance_id
            class_id = SHAPES_CLASSES.index(element.findtext("name"))
            assert set(class_map[mask].tolist()) == {class_id + 1}
            assert element.findtext("difficult") == "0"
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            # VOC's boxes are 1-based and hold both ends.
            box = [int(element.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1]
            at_border = box[0] == 1 or box[1] == 1 or box[2] == 128 or box[3] == 128
            assert element.findtext("truncated") == str(int(at_border))


def test_png_colors_are_those_of_voc(shapes):
    image = Image.open(next((shapes / "SegmentationClass").iterdir()))
    palette = np.array(image.getpalette()).reshape(-1, 3)
    # The devkit's colours of background, aeroplane, bicycle, bird, boat and bottle.
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert palette[: len(expected)].tolist() == expected


def test_same_seed_same_bytes_for_any_number_of_processes(shapes, tmp_path):
    write_shapes(tmp_path / "again", NUM_TRAIN, NUM_VAL, SEED, num_workers=2)
    assert folder_bytes(tmp_path / "again") == folder_bytes(shapes)


def test_images_do_not_depend_on_the_counts(shapes, tmp_path):
    write_shapes(tmp_path / "fewer", 2, 1, SEED, num_workers=1)
    expected = folder_bytes(shapes)
    fewer = folder_bytes(tmp_path / "fewer")
    images = [name for name in fewer if name.startswith(("JPEGImages", "Segmentation"))]
    assert len(images) == 9
    for name in images:
        assert fewer[name] == expected[name]


def test_other_seed_and_other_split_other_images(shapes, tmp_path):
    write_shapes(tmp_path / "other", 1, 0, SEED + 1, num_workers=1)
    name = "JPEGImages/train_000001.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (shapes / name).read_bytes()
    validation = (shapes / "JPEGImages/val_000001.jpg").read_bytes()
    assert validation != (shapes / name).read_bytes()


def test_skips_what_is_there_and_replaces_other_parameters(tmp_path):
    root = tmp_path / "shapes"
    root.mkdir()  # an empty folder is free to take
    assert write_shapes(root, 1, 1, 0, num_workers=1)
    before = os.stat(root / "shapes.json").st_mtime_ns
    assert not write_shapes(root, 1, 1, 0, num_workers=1)
    assert os.stat(root / "shapes.json").st_mtime_ns == before
    assert write_shapes(root, 2, 0, 0, image_size=64, num_workers=1)
    assert len(list((root / "JPEGImages").iterdir())) == 2
    assert json.loads((root / "shapes.json").read_text())["image_size"] == 64
    assert os.listdir(tmp_path) == ["shapes"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"dataset": "VOC"}'])
def test_leaves_foreign_folders_alone(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    if content is not None:
        (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(UserError, match="not a Shapes dataset"):
        write_shapes(tmp_path, 1, 1, 0)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write Shapes to"):
        write_shapes(tmp_path / "file" / "shapes", 1, 1, 0)


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes_module, "_write_image", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        write_shapes(tmp_path / "shapes", 1, 1, 0, num_workers=1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, -1, 0), (1, 1, -1), (1, 1, 0, 16)])
def test_parameters_out_of_range(tmp_path, arguments):
    with pytest.raises(UserError, match="at least 1 training image"):
        write_shapes(tmp_path / "shapes", *arguments)
