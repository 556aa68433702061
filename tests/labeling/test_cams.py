"""Multi-scale CAMs against Pillow and plain loops; their files."""

import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from wsis_d2.errors import UserError
from wsis_d2.labeling import (
    MultiScaleCAM,
    full_size_cam,
    multi_scale_cams,
    read_cam,
    write_cam,
)
from wsis_d2.layers import correlate_pixels


class Classifier(nn.Module):
    """Averages of 2 x 2 pixels, mixed to four classes. A batch is padded to a multiple of 8."""

    stride = 2

    def __init__(self, divisibility=8):
        super().__init__()
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 100.0))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(4, 3, generator=generator))
        self.divisibility = divisibility

    def preprocess(self, batched_inputs):
        images = [x["image"] - self.pixel_mean for x in batched_inputs]
        return ImageList.from_tensors(images, self.divisibility)

    def class_activation_maps(self, images):
        cells = F.avg_pool2d(images, 2, ceil_mode=True)
        return torch.einsum("kc,nchw->nkhw", self.mix, cells).relu()


def _image(height=21, width=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _by_hand(classifier, image, labels, scales, flip, stride):
    """The published procedure: Pillow resizes, each view is a batch of its own, sums in a loop."""
    height, width = image.shape[1:]
    grid = (-(-height // stride), -(-width // stride))
    total = np.zeros((len(labels), *grid))
    for scale in scales:
        size = (round(width * scale), round(height * scale))
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        if scale != 1:
            picture = picture.resize(size, Image.BICUBIC)
        for mirrored in (False, True)[: 1 + flip]:
            pixels = np.array(picture)[:, :: -1 if mirrored else 1]
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() - 100
            maps = classifier.class_activation_maps(x[None])[0].numpy()
            for i, label in enumerate(labels):
                cam = maps[label][:, :: -1 if mirrored else 1]
                total[i] += cv2.resize(
                    np.ascontiguousarray(cam), grid[::-1], interpolation=cv2.INTER_LINEAR
                )
    return total / (total.max((1, 2), keepdims=True) + 1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5, 1.5, 2.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_against_the_published_procedure(scales, flip):
    classifier, image, labels = Classifier(divisibility=0), _image(), [3, 0]
    cams = multi_scale_cams(classifier, image, torch.tensor(labels), scales, flip, stride=4)
    expected = _by_hand(classifier, image, labels, scales, flip, 4)
    assert cams.shape == (2, 6, 8)
    assert cams.dtype == torch.float32
    # Pillow's fixed-point weights round some pixels to the neighbouring gray value.
    assert np.abs(cams.numpy() - expected).max() < 0.01
    assert cams.amax((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_padding_takes_no_part():
    image, labels = _image(24, 36), [1]
    padded = multi_scale_cams(Classifier(8), image, labels)
    assert torch.equal(padded, multi_scale_cams(Classifier(0), image, labels))


def test_a_mirrored_image_has_mirrored_cams():
    # At a width whose multiples are even, the cells of both images are the same pixels.
    image, labels = _image(width=32), [0, 1, 2, 3]
    cams = multi_scale_cams(Classifier(), image, labels)
    mirrored = multi_scale_cams(Classifier(), image.flip(-1), labels)
    assert torch.allclose(mirrored.flip(-1), cams, atol=1e-5)
    assert not torch.allclose(mirrored, cams, atol=1e-2)


def test_a_class_without_evidence_has_zeros():
    cams = multi_scale_cams(Classifier(), torch.full((3, 16, 16), 100, dtype=torch.uint8), [2])
    assert not cams.any()


def test_the_model_takes_input_dicts():
    model = MultiScaleCAM(classifier=Classifier(), scales=(1.0, 2.0), flip=True, stride=4)
    labels = torch.tensor([1, 2])
    inputs = [{"image": _image(seed=i), "image_labels": labels} for i in range(2)]
    outputs = model(inputs)
    for x, output in zip(inputs, outputs):
        expected = multi_scale_cams(model.classifier, x["image"], labels, (1.0, 2.0))
        assert torch.equal(output["cam"], expected)
        assert torch.equal(output["class_ids"], labels)
    with pytest.raises(UserError, match="'a.jpg' has no label"):
        model([{"image": _image(), "file_name": "a.jpg"}])


class ClassifierWithFeatures(Classifier):
    """Its features: the pixels themselves, and means of 4 x 4 of them."""

    def __init__(self, divisibility=8):
        super().__init__(divisibility)
        shapes = {
            "fine": ShapeSpec(channels=3, stride=1),
            "coarse": ShapeSpec(channels=3, stride=4),
        }
        self.backbone = SimpleNamespace(output_shape=lambda: shapes)

    def class_activation_maps_and_features(self, images, names):
        features = {"fine": images, "coarse": F.avg_pool2d(images, 4, ceil_mode=True)}
        return self.class_activation_maps(images), [features[name] for name in names]


def test_correlated_cams_are_averages_over_alike_pixels():
    image, labels, names = _image(24, 36), [3, 0], ("fine", "coarse")
    classifier = ClassifierWithFeatures(0)
    found = multi_scale_cams(classifier, image, labels, (1.0,), False, 2, names, 2.0)
    maps, features = classifier.class_activation_maps_and_features(image[None] - 100.0, names)
    total = correlate_pixels(maps[:, labels], features, 2.0)[0]
    total -= total.amin((1, 2), keepdim=True)
    assert torch.allclose(found, total / (total.amax((1, 2), keepdim=True) + 1e-5), atol=1e-5)
    assert found.amin((1, 2)).tolist() == [0, 0]


def test_padding_takes_no_part_in_correlations():
    image, labels = _image(24, 36), [1, 2]
    options = {"scales": (1.0, 2.0), "correlation_features": ("fine", "coarse")}
    padded = multi_scale_cams(ClassifierWithFeatures(8), image, labels, **options)
    assert torch.allclose(
        padded, multi_scale_cams(ClassifierWithFeatures(0), image, labels, **options), atol=1e-4
    )


def test_the_power_of_correlations_is_checked():
    options = {"correlation_features": ("fine",), "correlation_power": 0.0}
    classifier = ClassifierWithFeatures()
    with pytest.raises(UserError, match="CAM.CORRELATION.POWER is 0"):
        MultiScaleCAM(classifier=classifier, scales=(1.0,), flip=True, stride=4, **options)


def test_what_cannot_give_cams():
    with pytest.raises(UserError, match="'Linear', which gives no class activation maps"):
        MultiScaleCAM(classifier=nn.Linear(1, 1), scales=(1.0,), flip=True, stride=4)
    with pytest.raises(UserError, match="CAM.SCALES"):
        MultiScaleCAM(classifier=Classifier(), scales=(1.0, 0.0), flip=True, stride=4)
    with pytest.raises(UserError, match="'Classifier', which does not give the features"):
        MultiScaleCAM(
            classifier=Classifier(),
            scales=(1.0,),
            flip=True,
            stride=4,
            correlation_features=("fine",),
        )


# ---- files


def test_a_file_keeps_its_maps(tmp_path):
    cam = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    class_ids = torch.tensor([2, 5, 79])
    path = tmp_path / "new" / "a.npz"
    write_cam(path, cam, class_ids)
    read, read_ids = read_cam(path)
    assert read.dtype == torch.float32
    assert read_ids.dtype == torch.int64
    assert torch.allclose(read, cam, atol=5e-4)
    assert torch.equal(read_ids, class_ids)
    content = path.read_bytes()
    assert len(content) < 2 * cam.numel() + 1000
    write_cam(path, cam.numpy(), class_ids.numpy())
    assert path.read_bytes() == content


def test_wrong_shapes_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="cam must be"):
        write_cam(tmp_path / "a.npz", torch.zeros(2, 3, 3), torch.tensor([1]))


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="make them with tools/make_cams.py or set CAM.PATH"):
        read_cam(tmp_path / "a.npz")


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 1, exclude_max=True),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
)
def test_damaged_files_are_one_sentence(tmp_path_factory, end, changes):
    path = tmp_path_factory.mktemp("cams") / "a.npz"
    write_cam(path, torch.linspace(0, 1, 20).reshape(1, 4, 5), torch.tensor([0]))
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path.write_bytes(content if changes else content[: int(end * len(content))])
    # A change of a byte that does not matter is none.
    with contextlib.suppress(UserError):
        cam, class_ids = read_cam(path)
        assert changes
        assert cam.ndim == 3
        assert len(cam) == len(class_ids)


def test_foreign_and_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, cam=np.zeros((2, 2)), class_ids=np.zeros(2))
    with pytest.raises(UserError, match="not the maps of some classes"):
        read_cam(path)
    np.savez(path, cam=np.array([{"a": 1}], dtype=object), class_ids=np.zeros(1))
    with pytest.raises(UserError, match="cannot be read"):
        read_cam(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros((1, 2, 2), np.float16))
    with pytest.raises(UserError, match="cannot be read"):
        read_cam(path)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([2, 4, 8]), st.integers(0, 99))
def test_full_size_against_opencv(height, width, stride, seed):
    grid = (-(-height // stride), -(-width // stride))
    cam = np.random.default_rng(seed).random((2, *grid)).astype(np.float32)
    cam[1] = 0
    full = full_size_cam(torch.from_numpy(cam), (height, width), stride)
    large = cv2.resize(cam[0], (grid[1] * stride, grid[0] * stride), interpolation=cv2.INTER_LINEAR)
    expected = large[:height, :width] / (large[:height, :width].max() + 1e-5)
    assert full.shape == (2, height, width)
    assert np.abs(full[0].numpy() - expected).max() < 1e-4
    assert not full[1].any()


def test_cams_of_another_image_are_refused():
    with pytest.raises(ValueError, match="are not those of an image of 21 x 30 pixels"):
        full_size_cam(torch.zeros(1, 5, 8), (21, 30), 4)
