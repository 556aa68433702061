"""Semantic datasets and the mapper that reads palette PNGs by their labels."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils

from wsis_d2 import add_wsis_config
from wsis_d2.data import SemSegMapper, register_builtin_datasets, register_own_datasets
from wsis_d2.data.label_maps import read_label_map, write_label_map
from wsis_d2.errors import UserError

CLASSES = ["cat", "dog"]


@pytest.fixture
def shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))
    return datasets_root / "shapes"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    return cfg


def image_pair(folder, label_map, name="a"):
    """An image whose red channel is 10 times the label, and its label map; as a dataset dict."""
    image = np.zeros((*label_map.shape, 3), np.uint8)
    image[..., 0] = 10 * label_map.astype(int) % 256
    Image.fromarray(image).save(folder / f"{name}.png")
    write_label_map(folder / f"{name}_labels.png", label_map)
    return {
        "file_name": str(folder / f"{name}.png"),
        "sem_seg_file_name": str(folder / f"{name}_labels.png"),
        "image_id": 7,
        "height": label_map.shape[0],
        "width": label_map.shape[1],
    }


def mapper(is_train=True, augmentations=(), num_classes=21):
    return SemSegMapper(
        is_train, augmentations=augmentations, image_format="RGB", num_classes=num_classes
    )


def test_shapes_have_label_maps(shapes):
    dicts = DatasetCatalog.get("shapes_train_sem_seg")
    image_level = DatasetCatalog.get("shapes_train")
    assert [d["image_id"] for d in dicts] == [d["image_id"] for d in image_level]
    for d, labels in zip(dicts, image_level):
        label_map = np.array(Image.open(d["sem_seg_file_name"]))
        assert label_map.shape == (d["height"], d["width"]) == (128, 128)
        assert set(np.unique(label_map)) - {0} == {c + 1 for c in labels["image_labels"]}
        assert d["file_name"] == labels["file_name"]
    metadata = MetadataCatalog.get("shapes_train_sem_seg")
    assert metadata.stuff_classes == ["background", "ant", "beetle", "crab", "fish", "snail"]
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_a_split_with_a_missing_label_map(datasets_root, tmp_path):
    root = tmp_path / "shapes"
    for folder in ("JPEGImages", "ImageSets/Segmentation", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(root / "JPEGImages" / "x.jpg")
    (root / "ImageSets/Segmentation/val.txt").write_text("x\n")
    register_builtin_datasets(str(tmp_path))
    try:
        with pytest.raises(UserError, match=r"SegmentationClass/x\.png"):
            DatasetCatalog.get("shapes_val_sem_seg")
    finally:
        register_builtin_datasets(str(datasets_root))


def test_pseudo_labels_of_a_registered_dataset(shapes, cfg, tmp_path):
    cfg.DATASETS.PSEUDO.SEM_SEG_ROOT = str(tmp_path / "maps")
    cfg.DATASETS.PSEUDO.SOURCE = "shapes_train"
    register_own_datasets(cfg)
    name = cfg.DATASETS.PSEUDO.SEM_SEG_NAME
    with pytest.raises(UserError, match=r"and 15 more of 'shapes_train' have no label map"):
        DatasetCatalog.get(name)
    source = DatasetCatalog.get("shapes_train")
    for d in source:
        stem = d["file_name"].split("/")[-1][:-4]
        write_label_map(tmp_path / "maps" / f"{stem}.png", np.zeros((128, 128), np.uint8))
    dicts = DatasetCatalog.get(name)
    assert [d["file_name"] for d in dicts] == [d["file_name"] for d in source]
    assert all("image_labels" not in d for d in dicts)
    assert MetadataCatalog.get(name).stuff_classes[:2] == ["background", "ant"]


def test_pseudo_labels_need_their_source(cfg, tmp_path):
    cfg.DATASETS.PSEUDO.SEM_SEG_ROOT = str(tmp_path)
    cfg.DATASETS.PSEUDO.SOURCE = "shapes_trian"
    with pytest.raises(UserError, match=r"did you mean 'shapes_train'"):
        register_own_datasets(cfg)


def own_dataset(cfg, folder, masks):
    """OWN_TEST with one 4 x 6 image and the instances (category id, mask, is a crowd)."""
    Image.new("RGB", (6, 4)).save(folder / "a.jpg")
    (folder / "labels.csv").write_text("file_name,labels\na.jpg,cat;dog\n")
    annotations = []
    for category_id, mask, is_crowd in masks:
        rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 5,
                "category_id": category_id,
                "segmentation": {"size": [4, 6], "counts": rle["counts"].decode()},
                "area": int(np.sum(mask)),
                "bbox": mask_utils.toBbox(rle).tolist(),
                "iscrowd": is_crowd,
            }
        )
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 4, "width": 6}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (folder / "gt.json").write_text(json.dumps(content))
    own = cfg.DATASETS.OWN_TEST
    own.IMAGE_ROOT, own.LABELS = str(folder), str(folder / "labels.csv")
    own.GT_JSON = str(folder / "gt.json")
    register_own_datasets(cfg)
    return f"{own.NAME}_sem_seg"


def test_instances_of_own_datasets_are_painted(cfg, tmp_path):
    crowd, large, small = np.zeros((3, 4, 6), bool)
    crowd[:, 4:] = large[:2, :5] = small[0, 1:3] = True
    name = own_dataset(cfg, tmp_path, [(3, small, 0), (9, large, 0), (3, crowd, 1)])
    (dataset_dict,) = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).stuff_classes == ["background", *CLASSES]
    assert (dataset_dict["image_id"], dataset_dict["height"], dataset_dict["width"]) == (5, 4, 6)
    expected = [
        [2, 1, 1, 2, 2, 255],
        [2, 2, 2, 2, 2, 255],
        [0, 0, 0, 0, 255, 255],
        [0, 0, 0, 0, 255, 255],
    ]
    assert read_label_map(dataset_dict["sem_seg_file_name"]).tolist() == expected
    # The dataset's folder stays as it was.
    assert {p.name for p in tmp_path.iterdir()} == {"a.jpg", "labels.csv", "gt.json", "cache"}
    # Other masks or another order of the classes: other label maps.
    name = own_dataset(cfg, tmp_path, [(9, small, 0)])
    (changed,) = DatasetCatalog.get(name)
    assert set(np.unique(read_label_map(changed["sem_seg_file_name"]))) == {0, 2}
    cfg.DATASETS.OWN_TEST.CLASSES = ("dog", "cat")
    register_own_datasets(cfg)
    (reordered,) = DatasetCatalog.get(name)
    assert set(np.unique(read_label_map(reordered["sem_seg_file_name"]))) == {0, 1}


def test_labels_are_read_and_not_the_palettes_gray_values(tmp_path):
    label_map = np.array([[0, 1, 20], [255, 2, 3]], np.uint8)
    record = image_pair(tmp_path, label_map)
    before = dict(record)
    output = mapper()(record)
    assert output["sem_seg"].tolist() == label_map.tolist()
    assert str(output["sem_seg"].dtype) == "torch.int64"
    assert output["image"].shape == (3, 2, 3)
    assert (output["height"], output["width"], output["image_id"]) == (2, 3, 7)
    assert "sem_seg_file_name" not in output
    assert record == before
    # What Detectron2's own mapper would have read.
    gray = utils.read_image(record["sem_seg_file_name"], "L").squeeze(2)
    assert gray.tolist() != label_map.tolist()


def test_no_label_map_is_read_at_test_time(tmp_path):
    record = image_pair(tmp_path, np.zeros((4, 4), np.uint8))
    (tmp_path / "a_labels.png").unlink()
    assert "sem_seg" not in mapper(is_train=False)(record)
    with pytest.raises(UserError, match="a_labels.png"):
        mapper()(record)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    crop=st.sampled_from([None, (6, 6), (30, 20)]),
    stride=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**31),
)
def test_image_and_labels_stay_together(tmp_path_factory, height, width, crop, stride, seed):
    folder = tmp_path_factory.mktemp("pair")
    labels = np.random.default_rng(seed).integers(0, 6, (height, width)).astype(np.uint8)
    cfg = get_cfg()
    add_wsis_config(cfg)
    # No resizing: interpolated colours have no label.
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = stride
    cfg.INPUT.CROP.ENABLED = crop is not None
    if crop:
        cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", list(crop)
    np.random.seed(seed)  # noqa: NPY002  (Detectron2 draws from it)
    output = SemSegMapper(cfg, is_train=True)(image_pair(folder, labels))
    image, label_map = output["image"], output["sem_seg"]
    height, width = (min(height, crop[0]), min(width, crop[1])) if crop else (height, width)
    padded = (-(-height // stride) * stride, -(-width // stride) * stride)
    assert image.shape[1:] == label_map.shape == padded
    inside = np.zeros(padded, bool)
    inside[:height, :width] = True
    assert (image[0] == 10 * label_map)[inside].all()
    assert (label_map[~inside] == 255).all()
    assert (image[:, ~inside] == torch.tensor(cfg.MODEL.PIXEL_MEAN).round()[:, None]).all()


def test_resized_labels_are_labels(cfg, tmp_path):
    label_map = np.tile(np.array([0, 5, 255], np.uint8), (9, 3))
    output = SemSegMapper(cfg, is_train=True)(image_pair(tmp_path, label_map))
    assert min(output["sem_seg"].shape) == 64
    assert set(output["sem_seg"].unique().tolist()) == {0, 5, 255}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: write_label_map(d["sem_seg_file_name"], np.zeros((3, 9), np.uint8)), "size"),
        (
            lambda d: write_label_map(d["sem_seg_file_name"], np.full((4, 4), 6, np.uint8)),
            "label 6",
        ),
        (lambda d: Image.new("RGB", (4, 4)).save(d["sem_seg_file_name"]), "mode RGB"),
        (lambda d: Image.new("RGB", (9, 9)).save(d["file_name"]), r"\(9, 9\).*says \(4, 4\)"),
        (lambda d: open(d["file_name"], "w").close(), "cannot be read"),
    ],
    ids=["map size", "unknown label", "color map", "image size", "broken image"],
)
def test_damaged_pairs_are_user_errors(cfg, tmp_path, damage, message):
    record = image_pair(tmp_path, np.zeros((4, 4), np.uint8))
    damage(record)
    with pytest.raises(UserError, match=message):
        SemSegMapper(cfg, is_train=True)(record)
