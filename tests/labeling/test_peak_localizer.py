"""Which peaks count, in which order, and where they lie in the image."""

import pytest
import torch
from detectron2.structures import ImageList

from wsis_d2.errors import UserError
from wsis_d2.labeling import PRMPeaks
from wsis_d2.layers import peak_stimulation


class Maps(torch.nn.Module):
    """A classifier whose class response maps are given; each cell sees its own 8 x 8 pixels."""

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.as_tensor(maps, dtype=torch.float32)
        self.cells = torch.nn.Conv2d(3, 1, 8, stride=8, bias=False)
        torch.nn.init.constant_(self.cells.weight, 1 / 192)

    upsample = 1
    statistic = "median"

    def preprocess(self, batched_inputs):
        return ImageList.from_tensors([x["image"] for x in batched_inputs])

    def stimulate(self, maps):
        logits, peaks = peak_stimulation(maps, threshold=self.statistic)
        return logits, peaks, maps[tuple(peaks.T)]

    def class_response_maps(self, images):
        # 1 in the forward pass, so that the maps come out as given and still depend on the image.
        return self.maps[None] * (self.cells(images) / self.cells(images).detach())


@pytest.fixture
def maps():
    """Two classes on a 4 x 4 grid: three peaks of class 0, one of class 1."""
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[0, 0, 3], maps[0, 3, 1] = 10.0, 6.0, 2.0
    maps[1, 2, 2] = 4.0
    return maps


def _localize(maps, labels, size=(32, 32), statistic="median", **options):
    options = {"class_threshold": -100.0, "peak_threshold": 0.5, **options}
    # Not constant: relevance counts from the image's minimum.
    image = torch.linspace(1, 2, 32 * 32).reshape(1, 32, 32).repeat(3, 1, 1)
    classifier = Maps(maps)
    classifier.statistic = statistic
    x = {"image": image, "image_labels": torch.tensor(labels), "height": size[0], "width": size[1]}
    return PRMPeaks(network=classifier, **options)(x)


def test_a_class_of_negative_responses_keeps_its_strongest_peak(maps):
    # Half of a negative number is above it.
    cues = _localize(maps - 20, [0, 1], peak_threshold=-100.0, relative_threshold=0.5)
    assert cues.responses.tolist() == [-10, -16]


def test_peaks_of_the_labelled_classes_strongest_first(maps):
    cues = _localize(maps, [0, 1])
    assert cues.class_ids.tolist() == [0, 0, 1, 0]
    assert cues.responses.tolist() == [10, 6, 4, 2]
    assert _localize(maps, [1]).class_ids.tolist() == [1]
    assert cues.class_response_maps.shape == (2, 4, 4)
    assert cues.response_maps.shape == (4, 32, 32)
    assert torch.allclose(cues.response_maps.sum((1, 2)), torch.ones(4))


def test_class_scores_are_the_probability_of_the_mean_peak(maps):
    cues = _localize(maps, [0, 1], statistic="mean")
    # Class 0: the three peaks are those above the mean.
    expected = torch.tensor([(10 + 6 + 2) / 3, 4.0]).sigmoid()
    assert torch.allclose(cues.class_scores, expected[cues.class_ids])


@pytest.mark.parametrize(
    ("options", "responses"),
    [
        ({"peak_threshold": 5.0}, [10, 6]),
        ({"peak_threshold": 6.0}, [10]),  # the published comparison is strict
        ({"relative_threshold": 0.5}, [10, 6, 4]),
        ({"max_peaks": 3}, [10, 6, 4]),
        ({"class_threshold": 5.0, "statistic": "mean"}, [10, 6, 2]),
    ],
)
def test_thresholds(maps, options, responses):
    assert _localize(maps, [0, 1], **options).responses.tolist() == responses


@pytest.mark.parametrize("location", ["cell", "response"])
def test_points_are_pixels_of_the_original_image(maps, location):
    cues = _localize(maps, [0], size=(64, 96), location=location)
    # Cell (0, 0) covers rows 0..15 and columns 0..23 of the original, cell (0, 3) columns 72..95.
    cells = (cues.points // torch.tensor([16, 24])).tolist()
    assert cells == [[0, 0], [0, 3], [3, 1]]
    if location == "cell":
        assert cues.points[0].tolist() == [8, 12]


def test_no_peak(maps):
    cues = _localize(maps, [0, 1], peak_threshold=50.0)
    assert len(cues) == 0
    assert cues.points.shape == (0, 2)
    assert cues.response_maps.shape == (0, 32, 32)


def test_unknown_location_is_named(maps):
    with pytest.raises(UserError, match="'centre'"):
        _localize(maps, [0], location="centre")


def test_a_network_without_peaks_is_named():
    with pytest.raises(UserError, match="'Identity'.*PRMClassifier"):
        PRMPeaks(network=torch.nn.Identity())
