"""The mapper of image-level stages and its augmentations."""

import colorsys
import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsis_d2 import add_wsis_config
from wsis_d2.data import (
    ImageLabelMapper,
    PaddedRandomCrop,
    RandomHue,
    build_image_level_augmentation,
)
from wsis_d2.engine.supervision import build_supervision
from wsis_d2.errors import UserError

HEIGHT, WIDTH = 30, 60
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN = (40, 80)
    cfg.INPUT.IMAGE_LEVEL.LONGEST_EDGE_TEST = 90
    cfg.INPUT.IMAGE_LEVEL.CROP_SIZE = 64
    cfg.INPUT.IMAGE_LEVEL.SQUARE_SIZE = 48
    return cfg


@pytest.fixture
def image_dict(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 12,
        "height": HEIGHT,
        "width": WIDTH,
        "image_labels": [1, 4],
    }


@pytest.fixture
def full_dict(image_dict, tmp_path):
    """A stock dataset dict with everything that must not be seen."""
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "sem_seg.png")
    del image_dict["image_labels"]
    annotation = {
        "bbox": [1, 2, 10, 10],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [[1, 2, 11, 2, 11, 12]],
        "keypoints": [1, 2, 2],
        "iscrowd": 0,
    }
    return {
        **image_dict,
        "annotations": [{**annotation, "category_id": c} for c in (4, 1, 4)],
        "sem_seg_file_name": str(tmp_path / "sem_seg.png"),
        "pan_seg_file_name": str(tmp_path / "sem_seg.png"),
        "proposal_boxes": np.zeros((1, 4)),
        "proposal_objectness_logits": np.zeros(1),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }


@pytest.mark.parametrize("is_train", [True, False])
def test_no_mask_or_box_leaks(cfg, full_dict, is_train):
    before = copy.deepcopy(full_dict)
    output = ImageLabelMapper(cfg, is_train)(full_dict)
    assert set(output) == {"image", "image_labels", "height", "width", "file_name", "image_id"}
    assert output["image_labels"].tolist() == [1, 4]
    np.testing.assert_equal(full_dict, before)


@pytest.mark.parametrize("is_train", [True, False])
def test_lower_counts_pass_where_they_are_the_supervision(cfg, full_dict, is_train):
    cfg.DATASETS.SUPERVISION, cfg.DATASETS.MAX_COUNT = "image_counts", 1
    output = build_supervision(cfg).label_mapper(is_train)(full_dict)
    assert set(output) - {"image_counts"} == {
        *("image", "image_labels", "height", "width", "file_name", "image_id")
    }
    assert output["image_labels"].tolist() == [1, 4]
    assert output["image_counts"].dtype == torch.int64
    assert output["image_counts"].tolist() == [1, 2]
    for supervision in ("image_labels", "seeds", "masks"):
        cfg.DATASETS.SUPERVISION = supervision
        assert "image_counts" not in build_supervision(cfg).label_mapper(is_train)(full_dict)


def test_output_at_test_time(cfg, image_dict):
    output = ImageLabelMapper(cfg, False)(image_dict)
    assert output["image"].dtype == torch.uint8
    bgr = PIXELS[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(output["image"].numpy(), bgr)
    assert output["image_labels"].dtype == torch.int64
    assert (output["height"], output["width"], output["image_id"]) == (HEIGHT, WIDTH, 12)

    cfg.INPUT.FORMAT = "RGB"
    rgb = ImageLabelMapper(cfg, False)(image_dict)["image"].numpy()
    np.testing.assert_array_equal(rgb, bgr[::-1])


def test_labels_and_size_may_be_unknown_at_test_time(cfg, image_dict):
    bare = {"file_name": image_dict["file_name"]}
    output = ImageLabelMapper(cfg, False)(bare)
    assert set(output) == {"file_name", "height", "width", "image"}
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)
    with pytest.raises(UserError, match="has no label"):
        ImageLabelMapper(cfg, True)(bare)
    with pytest.raises(UserError, match="has no label"):
        ImageLabelMapper(cfg, True)({**image_dict, "image_labels": []})


@pytest.mark.parametrize(
    ("style", "size"), [("none", (30, 60)), ("square", (48, 48)), ("longest_edge", (45, 90))]
)
def test_sizes_at_test_time(cfg, image_dict, style, size):
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TEST = style
    output = ImageLabelMapper(cfg, False)(image_dict)
    assert output["image"].shape == (3, *size)
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("style", "crop", "size"),
    [
        ("none", 0, (30, 60)),
        ("none", 64, (64, 64)),
        ("square", 64, (48, 48)),
        ("scale", 64, (64, 64)),
        ("longest_edge", 64, (64, 64)),
    ],
)
def test_sizes_in_training(cfg, image_dict, style, crop, size):
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TRAIN = style
    cfg.INPUT.IMAGE_LEVEL.CROP_SIZE = crop
    cfg.INPUT.IMAGE_LEVEL.COLOR_JITTER = 0.3
    mapper = ImageLabelMapper(cfg, True)
    for _ in range(5):
        assert mapper(image_dict)["image"].shape == (3, *size)


def test_longest_edge_is_drawn_from_its_range(cfg):
    cfg.INPUT.IMAGE_LEVEL.CROP_SIZE = 0
    augmentations = T.AugmentationList(build_image_level_augmentation(cfg, True))
    np.random.seed(0)  # noqa: NPY002
    longest = set()
    for image in (PIXELS, PIXELS.transpose(1, 0, 2)):
        for _ in range(100):
            data = T.AugInput(image)
            augmentations(data)
            height, width = data.image.shape[:2]
            assert abs(max(height, width) - 2 * min(height, width)) <= 1, "aspect ratio is lost"
            longest.add(max(height, width))
    assert min(longest) >= 40
    assert max(longest) <= 80
    assert len(longest) > 25


def test_scale_is_drawn_from_its_range(cfg):
    cfg.INPUT.IMAGE_LEVEL.merge_from_list(
        ["RESIZE_TRAIN", "scale", "SCALE_TRAIN", (0.5, 1.5), "CROP_SIZE", 0]
    )
    augmentations = T.AugmentationList(build_image_level_augmentation(cfg, True))
    np.random.seed(0)  # noqa: NPY002
    # Labels 0, 7 and 255 in three columns: any blending would give others.
    labels = np.repeat(np.uint8([0, 7, 255]), WIDTH // 3)[None].repeat(HEIGHT, axis=0)
    widths = set()
    for _ in range(100):
        data = T.AugInput(PIXELS, sem_seg=labels)
        augmentations(data)
        height, width = data.image.shape[:2]
        assert data.sem_seg.shape == (height, width)
        assert set(np.unique(data.sem_seg)) == {0, 7, 255}
        assert abs(width - 2 * height) <= 1, "aspect ratio is lost"
        widths.add(width)
    assert min(widths) >= 30
    assert max(widths) <= 90
    assert len(widths) > 30


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_hue_turns_by_one_angle_and_nothing_else(image_format, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 20, 3)).astype(dtype)
    image[0] = image[0, :, :1]  # gray
    np.random.seed(1)  # noqa: NPY002
    augmentation, angles = RandomHue(0.1, image_format), []

    def hsv(img):  # of the standard library, in parts of 1
        pixels = img[..., ::-1] if image_format == "BGR" else img
        return np.array([colorsys.rgb_to_hsv(*p) for p in pixels.reshape(-1, 3) / 255.0])

    for _ in range(20):
        turned = augmentation.get_transform(image).apply_image(image)
        assert turned.dtype == dtype
        assert np.allclose(turned[0], image[0], atol=1)
        before, after = hsv(image.astype(float)), hsv(turned.astype(float))
        assert np.allclose(before[:, 2], after[:, 2], atol=0.01)
        colorful = (before[:, 1] > 0.5) & (before[:, 2] > 0.5)
        assert colorful.sum() > 50
        assert np.allclose(before[colorful, 1], after[colorful, 1], atol=0.02)
        angle = (after[colorful, 0] - before[colorful, 0] + 0.5) % 1 - 0.5
        assert np.ptp(angle) < 0.02
        angles.append(angle.mean())
    assert min(angles) < -0.04
    assert max(angles) > 0.04
    assert max(map(abs, angles)) < 0.11


def test_hue_is_jittered_on_demand(cfg):
    def names():
        return [type(a).__name__ for a in build_image_level_augmentation(cfg, True)]

    assert "RandomHue" not in names()
    cfg.INPUT.IMAGE_LEVEL.HUE_JITTER = 0.1
    assert names().count("RandomHue") == 1
    assert "RandomHue" not in [type(a).__name__ for a in build_image_level_augmentation(cfg, False)]
    cfg.INPUT.IMAGE_LEVEL.HUE_JITTER = 0.6
    with pytest.raises(UserError, match="HUE_JITTER is 0.6"):
        build_image_level_augmentation(cfg, True)


def test_training_flips_unless_told_not_to(cfg, image_dict):
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TRAIN = "none"
    cfg.INPUT.IMAGE_LEVEL.CROP_SIZE = 0
    straight = PIXELS[:, :, ::-1].transpose(2, 0, 1)

    def outcomes():
        mapper = ImageLabelMapper(cfg, True)
        return {mapper(image_dict)["image"].numpy().tobytes() for _ in range(20)}

    assert outcomes() == {straight.tobytes(), straight[:, :, ::-1].tobytes()}
    cfg.INPUT.RANDOM_FLIP = "none"
    assert outcomes() == {straight.tobytes()}
    cfg.INPUT.IMAGE_LEVEL.COLOR_JITTER = 0.3
    assert len(outcomes()) == 20


@given(height=st.integers(1, 12), width=st.integers(1, 12), size=st.integers(1, 12), data=st.data())
def test_padded_crop_moves_pixels_and_invents_none(height, width, size, data):
    np.random.seed(data.draw(st.integers(0, 99)))  # noqa: NPY002
    # Every pixel is its own position, far from the padding's color.
    image = np.stack(np.mgrid[:height, :width], axis=-1).astype(np.uint8)
    transform = PaddedRandomCrop(size, (103.53, 200.4)).get_transform(image)
    output = transform.apply_image(image)
    assert output.shape == (size, size, 2)
    assert output.dtype == np.uint8

    inside = output[..., 0] < 100
    assert inside.sum() == min(height, size) * min(width, size)
    assert (output[~inside] == (104, 200)).all()
    ys, xs = np.nonzero(inside)
    offsets = output[inside].astype(int) - np.stack([ys, xs], axis=1)
    assert (offsets == offsets[0]).all(), "the window must move as a whole"

    # Label maps move with the image and are unknown outside; so do points.
    labels = transform.apply_segmentation(np.zeros((height, width), np.uint8))
    np.testing.assert_array_equal(labels == 255, ~inside)
    point = transform.apply_coords(output[ys[0], xs[0]][None, ::-1].astype(float))
    np.testing.assert_array_equal(point, [[xs[0], ys[0]]])


def test_padded_crop_takes_every_position():
    crop = PaddedRandomCrop(4, (0.0,))
    image = np.arange(1, 7, dtype=np.uint8)[:, None, None].repeat(2, axis=1)  # 6 x 2
    seen = set()
    np.random.seed(0)  # noqa: NPY002
    for _ in range(200):
        output = crop.get_transform(image).apply_image(image)[..., 0]
        seen.add((int(output.max(axis=1)[0]), int(np.argmax(output[0] > 0))))
    assert seen == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2)}


def test_float_images_are_padded_with_the_exact_color():
    image = np.zeros((2, 2, 1), np.float32)
    output = PaddedRandomCrop(3, (0.3,)).get_transform(image).apply_image(image)
    assert output.dtype == np.float32
    assert np.unique(output).tolist() == [0.0, np.float32(0.3)]


def test_errors_name_the_image(cfg, image_dict, tmp_path):
    mapper = ImageLabelMapper(cfg, True)
    with pytest.raises(UserError, match=r"no.png' is absent"):
        mapper({**image_dict, "file_name": str(tmp_path / "no.png")})
    with pytest.raises(UserError, match=r"a.png' has the size \(30, 60\).*says \(30, 61\)"):
        mapper({**image_dict, "width": WIDTH + 1})
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text.jpg' cannot be read"):
        mapper({**image_dict, "file_name": str(tmp_path / "text.jpg")})
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut.png' cannot be read"):
        mapper({**image_dict, "file_name": str(tmp_path / "cut.png")})


def test_errors_of_the_config(cfg):
    cfg.INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN = (80, 40)
    with pytest.raises(UserError, match="LONGEST_EDGE_TRAIN"):
        ImageLabelMapper(cfg, True)
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TEST = "shortest_edge"
    with pytest.raises(UserError, match="RESIZE_TEST is 'shortest_edge'"):
        ImageLabelMapper(cfg, False)
