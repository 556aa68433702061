"""The image reader against OpenCV and Detectron2, and in every mapper that reads images."""

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils as utils
from PIL import Image

from wsis_d2.data import ImageLabelMapper, InstanceMapper, SeedMapper, SemSegMapper, write_label_map
from wsis_d2.errors import UserError
from wsis_d2.images import read_image

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)  # every value of 16 bits, once


def _write(path, pixels):
    assert cv2.imwrite(str(path), pixels)
    return str(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_16_bit_gray(tmp_path, name, image_format):
    path = _write(tmp_path / name, RAMP)
    found = read_image(path, image_format)
    assert found.dtype == np.uint8
    assert found.shape == (256, 256, 1 if image_format == "L" else 3)
    assert np.array_equal(found, np.repeat((RAMP >> 8)[..., None], found.shape[2], 2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_colour(tmp_path, name):
    pixels = np.stack([RAMP, RAMP.T, RAMP[::-1]], 2)
    path = _write(tmp_path / name, pixels)
    assert np.array_equal(read_image(path, "BGR"), pixels >> 8)


def test_12_bit_tiff(tmp_path):
    # Two pixels in three bytes: 0xABC and 0x123.
    raw = bytes([0xAB, 0xC1, 0x23])
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    entries.append((279, len(raw)))
    directory = len(entries).to_bytes(2, "little")
    for tag, value in entries:
        directory += b"".join(
            v.to_bytes(n, "little") for v, n in ((tag, 2), (4, 2), (1, 4), (value, 4))
        )
    header = b"II*\0" + (8 + len(raw) + 1).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(header + raw + b"\0" + directory + bytes(4))
    assert read_image(tmp_path / "a.tif", "L").ravel().tolist() == [0xAB, 0x12]


@pytest.mark.parametrize(("largest", "scale"), [(1.0, 255), (255.0, 1)])
def test_floats_of_a_clear_range(tmp_path, largest, scale):
    pixels = np.linspace(0, largest, 300, dtype=np.float32).reshape(15, 20)
    found = read_image(_write(tmp_path / "a.tif", pixels), "L")[..., 0]
    assert np.array_equal(found, np.rint(pixels * scale))
    assert len(np.unique(found)) > 200


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0, 300]], np.float32), "floats from 0 to 300"),
        (np.array([[-1, 1]], np.float32), "floats from -1 to 1"),
        (np.array([[0, np.nan]], np.float32), "floats from nan"),
        (np.array([[0, 70000]], np.int32), "32 bits"),
    ],
)
def test_other_ranges_are_refused(tmp_path, pixels, message):
    with pytest.raises(UserError, match=f"a.tif' has .*{message}.*save it with 8 or 16 bits"):
        read_image(_write(tmp_path / "a.tif", pixels))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L", "YUV-BT.601"])
def test_8_bit_images_are_read_as_detectron2_reads_them(tmp_path, mode, image_format):
    pixels = np.random.default_rng(0).integers(256, size=(6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    path = str(tmp_path / "a.png")
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)
    found = read_image(path, image_format)
    assert found.shape[:2] == (9, 6)
    assert np.array_equal(found, utils.read_image(path, image_format))


def test_every_reader_reads_16_bits(tmp_path):
    path = _write(tmp_path / "a.png", RAMP[:32, :32] * 64)
    expected = (RAMP[:32, :32] * 64) >> 8
    write_label_map(tmp_path / "map.png", np.zeros((32, 32), np.uint8))
    record = {"file_name": path, "image_id": 1, "height": 32, "width": 32, "image_labels": [0]}
    record["sem_seg_file_name"] = str(tmp_path / "map.png")
    options = {"is_train": False, "augmentations": [], "image_format": "RGB"}
    mappers = [
        ImageLabelMapper(**options),
        SeedMapper(**options),
        SemSegMapper(**options, num_classes=3),
        InstanceMapper(**options),
    ]
    assert np.array_equal(read_image(path)[..., 0], expected)
    for mapper in mappers:
        assert np.array_equal(mapper(record)["image"][0].numpy(), expected), type(mapper)
