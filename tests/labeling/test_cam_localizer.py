"""Maxima of CAMs and their basins, against plain loops and hand-made maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsis_d2.errors import UserError
from wsis_d2.labeling import CAMMaxima, MultiScaleCAM
from wsis_d2.labeling.localizers.cam_maxima import basin_shares, cam_maxima

SIZE = (32, 48)
SIGMA = 4.0


def _bumps(*bumps):
    """A map of bumps (y, x, height); their sum."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    total = np.zeros(SIZE)
    for cy, cx, height in bumps:
        total += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * SIGMA**2))
    return torch.from_numpy(total).float()


def _maxima_and_shares(cam, min_distance, threshold):
    points, basins = cam_maxima(cam, min_distance, threshold)
    return points, basin_shares(cam, basins, torch.arange(len(points)))


def test_maxima_and_their_basins():
    points, shares = _maxima_and_shares(_bumps((16, 10, 1.0), (16, 36, 0.5)), 5, 0.3)
    assert sorted(points.tolist()) == [[16, 10], [16, 36]]
    assert torch.allclose(shares.sum((1, 2)), torch.ones(2))
    left = shares[points[:, 1].argmin()]
    assert (left[:, 36:] == 0).all()
    assert (left[:, :12] > 0).all()
    # Each pixel is in one basin.
    assert ((shares > 0).sum(0) == 1).all()


@pytest.mark.parametrize(
    ("min_distance", "threshold", "count"),
    [(5, 0.3, 2), (5, 0.6, 1), (30, 0.3, 1)],
)
def test_maxima_that_do_not_count(min_distance, threshold, count):
    points, shares = _maxima_and_shares(
        _bumps((16, 10, 1.0), (16, 36, 0.5)), min_distance, threshold
    )
    assert len(points) == len(shares) == count
    if count == 1:
        assert points.tolist() == [[16, 10]]
        # The whole map belongs to the only one.
        assert (shares > 0).all()


def test_maxima_at_the_border_count_and_empty_maps_have_none():
    assert cam_maxima(_bumps((0, 47, 1.0)), 5, 0.3)[0].tolist() == [[0, 47]]
    for cam in (torch.zeros(SIZE), torch.zeros(3, 5)):
        points, shares = _maxima_and_shares(cam, 5, 0.3)
        assert points.shape == (0, 2)
        assert shares.shape == (0, *cam.shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.0, 0.9))
def test_maxima_against_loops(seed, min_distance, threshold):
    # All values differ, so that there are no plateaus.
    cam = np.random.default_rng(seed).permutation(12 * 14).reshape(12, 14) + 1.0
    points, shares = _maxima_and_shares(torch.from_numpy(cam), min_distance, threshold)
    d = min_distance
    expected = {
        (y, x)
        for y in range(12)
        for x in range(14)
        if cam[y, x] > threshold * cam.max()
        and cam[y, x] == cam[max(0, y - d) : y + d + 1, max(0, x - d) : x + d + 1].max()
    }
    found = set(map(tuple, points.tolist()))
    # skimage drops a maximum that lies within the distance of a greater one, by the largest
    # coordinate difference, as the window does.
    assert found == expected
    for (y, x), share in zip(points.tolist(), shares):
        assert share[y, x] > 0
        assert share.sum().item() == pytest.approx(1)
        basin = share > 0
        assert torch.allclose(share[basin] / share[y, x], torch.from_numpy(cam)[basin] / cam[y, x])
    assert ((shares > 0).sum(0) == 1).all()


class Classifier(torch.nn.Module):
    """Class activation maps as given: the bumps of class 0, 1 and 2 in the image's channels."""

    stride = 1
    backbone = type("Backbone", (), {"size_divisibility": 0})
    pixel_mean = torch.zeros(1)

    def preprocess(self, batched_inputs):
        return type("Batch", (), {"tensor": torch.stack([x["image"] for x in batched_inputs])})

    def class_activation_maps(self, images):
        return images / 255

    def forward(self, batched_inputs):
        return [{"image_scores": torch.tensor([0.9, 0.8, 0.1])} for _ in batched_inputs]


def _localize(labels, **options):
    image = 255 * torch.stack(
        [
            _bumps((10, 10, 1.0), (20, 38, 0.6)),
            _bumps((20, 20, 0.4)),
            torch.zeros(SIZE),
        ]
    )
    cams = MultiScaleCAM(classifier=Classifier(), scales=(1.0,), flip=True, stride=1)
    options = {"min_distance": 6, "relative_threshold": 0.3, **options}
    localizer = CAMMaxima(multi_scale_cam=cams, **options)
    x = {"image": image, "image_labels": torch.tensor(labels), "height": 32, "width": 48}
    return localizer, localizer(x)


def test_cues_of_an_image():
    localizer, cues = _localize([0, 1])
    # A CAM is relative to its own maximum: that of class 1 is as strong as that of class 0.
    assert cues.points.tolist() == [[10, 10], [20, 20], [20, 38]]
    assert cues.class_ids.tolist() == [0, 1, 0]
    assert cues.responses.tolist() == pytest.approx([1, 1, 0.6], abs=1e-3)
    assert cues.class_scores.tolist() == pytest.approx([0.9, 0.8, 0.54], abs=1e-3)
    assert cues.response_maps.shape == (3, *SIZE)
    assert torch.allclose(cues.response_maps.sum((1, 2)), torch.ones(3))
    assert cues.class_response_maps.shape == (3, *SIZE)
    assert (cues.class_response_maps[2] == 0).all()
    assert isinstance(localizer.network, Classifier)


def test_labels_without_evidence_and_the_greatest_number():
    assert _localize([1, 2])[1].class_ids.tolist() == [1]
    assert len(_localize([2])[1]) == 0
    assert _localize([2])[1].response_maps.shape == (0, *SIZE)
    assert _localize([0, 1], max_peaks=2)[1].points.tolist() == [[10, 10], [20, 20]]


def test_a_network_without_cams_is_named():
    with pytest.raises(UserError, match="CAMClassifier"):
        MultiScaleCAM(classifier=torch.nn.Identity(), scales=(1.0,), flip=True, stride=1)
