"""Images and their seeds: what is read, what passes, and that both move alike."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from wsis_d2 import add_wsis_config
from wsis_d2.data import SeedMapper, add_seed_files, write_label_map
from wsis_d2.errors import UserError

HEIGHT, WIDTH = 30, 60


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.IMAGE_LEVEL.merge_from_list(["RESIZE_TRAIN", "none", "CROP_SIZE", 0])
    return cfg


@pytest.fixture
def seeds():
    """One label per 10 pixels, in both directions, and unknown ones."""
    labels = np.random.default_rng(0).choice([0, 3, 20, 255], (HEIGHT // 10, WIDTH // 10))
    return np.kron(labels, np.ones((10, 10))).astype(np.uint8)


@pytest.fixture
def dataset_dict(tmp_path, seeds):
    """The red channel of the image is its seeds, so that both can be compared after any move."""
    pixels = np.stack([seeds, np.zeros_like(seeds), np.zeros_like(seeds)], axis=-1)
    for folder in ("images/cats", "seeds"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "images" / "cats" / "a.png")
    write_label_map(tmp_path / "seeds" / "cats" / "a.png", seeds)
    return {
        "file_name": str(tmp_path / "images" / "cats" / "a.png"),
        "image_id": 12,
        "height": HEIGHT,
        "width": WIDTH,
        "image_labels": [2, 19],
    }


def with_seeds(dataset_dict, tmp_path):
    (found,) = add_seed_files([dataset_dict], str(tmp_path / "seeds"), str(tmp_path / "images"))
    return found


def test_nothing_but_image_and_seeds_passes(cfg, dataset_dict, tmp_path, seeds):
    stock = {
        **dataset_dict,
        "annotations": [{"category_id": 2}],
        "sem_seg_file_name": "true_masks.png",
        "pan_seg_file_name": "true_masks.png",
    }
    before = copy.deepcopy(stock)
    found = with_seeds(stock, tmp_path)
    assert found["sem_seg_file_name"] == str(tmp_path / "seeds" / "cats" / "a.png")
    assert set(found) == {"file_name", "image_id", "height", "width", "sem_seg_file_name"}
    assert stock == before

    cfg.INPUT.RANDOM_FLIP = "none"
    output = SeedMapper(cfg, True)({**found, "annotations": stock["annotations"]})
    assert set(output) == {"image", "sem_seg", "file_name", "image_id", "height", "width"}
    assert output["image"].shape == (3, HEIGHT, WIDTH)
    assert output["sem_seg"].dtype == torch.uint8
    np.testing.assert_array_equal(output["sem_seg"].numpy(), seeds)


@pytest.mark.parametrize("style", ["none", "scale"])
@pytest.mark.parametrize("crop", [0, 40])
def test_image_and_seeds_move_alike(cfg, dataset_dict, tmp_path, style, crop):
    cfg.INPUT.IMAGE_LEVEL.merge_from_list(["RESIZE_TRAIN", style, "CROP_SIZE", crop])
    cfg.MODEL.PIXEL_MEAN = [255.0, 77.0, 77.0]  # padding is as red as unknown seeds
    mapper, found = SeedMapper(cfg, True), with_seeds(dataset_dict, tmp_path)
    np.random.seed(0)  # noqa: NPY002
    outcomes = set()
    for _ in range(20):
        output = mapper(found)
        red, labels = output["image"][0].numpy(), output["sem_seg"].numpy()
        assert labels.shape == red.shape
        assert set(np.unique(labels)) <= {0, 3, 20, 255}
        if style == "none":
            np.testing.assert_array_equal(red, labels)
        else:  # bicubic and nearest differ at the borders of the labels
            assert (abs(red.astype(int) - labels) < 8).mean() > 0.7
        assert ((output["image"][1].numpy() == 77) <= (labels == 255)).all()
        outcomes.add(labels.tobytes())
    assert len(outcomes) > (1 if style == "none" and not crop else 10)


def test_missing_seeds_name_the_tool(dataset_dict, tmp_path):
    (tmp_path / "seeds" / "cats" / "a.png").unlink()
    with pytest.raises(UserError, match=r"a.png' are missing \(1 of 1 .*tools/make_seeds.py"):
        with_seeds(dataset_dict, tmp_path)


def test_errors_name_the_file(cfg, dataset_dict, tmp_path, seeds):
    mapper, found = SeedMapper(cfg, True), with_seeds(dataset_dict, tmp_path)
    write_label_map(found["sem_seg_file_name"], seeds[:-1])
    with pytest.raises(UserError, match=r"seeds '.*a.png' have the size \(29, 60\).*\(30, 60\)"):
        mapper(found)
    with open(found["sem_seg_file_name"], "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError, match=r"a.png' cannot be read"):
        mapper(found)
    with pytest.raises(UserError, match=r"no.png' is absent"):
        mapper({**found, "file_name": str(tmp_path / "no.png")})
