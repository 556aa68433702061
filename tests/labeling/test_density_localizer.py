"""Counts from labels and density, and the peaks that they allow."""

import pytest
import torch

from wsis_d2.errors import UserError
from wsis_d2.labeling import DensityPeaks
from wsis_d2.layers import peak_stimulation


class Counting(torch.nn.Module):
    """A network whose maps are given; each cell of the class response maps sees 8 x 8 pixels."""

    upsample = 1
    max_count = 4

    def __init__(self, maps, density):
        super().__init__()
        self.maps, self.density = maps, density
        self.runs = 0
        self.cells = torch.nn.Conv2d(3, 1, 8, stride=8, bias=False)
        torch.nn.init.constant_(self.cells.weight, 1 / 192)

    def preprocess(self, batched_inputs):
        class Images:
            tensor = torch.stack([x["image"] for x in batched_inputs])

        return Images

    def class_response_maps(self, images):
        return self.maps[None] * (self.cells(images) / self.cells(images).detach())

    def response_and_density_maps(self, images):
        self.runs += 1
        return self.class_response_maps(images), self.density[None].clone()

    def stimulate(self, maps):
        logits, peaks = peak_stimulation(maps, threshold=0.5)
        return logits, peaks, maps[tuple(peaks.T)]


@pytest.fixture
def network():
    """Class 0: peaks 9, 7, 5, 3 and density 3.3; class 1: peaks 8, 2 and none; class 2: no peak."""
    maps = torch.zeros(3, 7, 7)
    maps[0, 0, 0], maps[0, 0, 6], maps[0, 6, 0], maps[0, 6, 6] = 9.0, 7.0, 5.0, 3.0
    maps[1, 3, 3], maps[1, 3, 6] = 8.0, 2.0
    density = torch.zeros(3, 7, 7)
    density[0, 0, 0], density[0, 3, 3], density[0, 5, 5] = 1.1, 2.2, -0.5
    return Counting(maps, density)


def locate(network, labels, counts=None, peaks_per_object=1.0, **options):
    image = torch.linspace(1, 2, 56 * 56).reshape(1, 56, 56).repeat(3, 1, 1)
    x = {"image": image, "image_labels": torch.tensor(labels), "height": 56, "width": 56}
    if counts is not None:
        x["image_counts"] = torch.tensor(counts)
    options = {"class_threshold": -100.0, "peak_threshold": 0.5, **options}
    localizer = DensityPeaks(network=network, peaks_per_object=peaks_per_object, **options)
    return localizer(x)


@pytest.mark.parametrize(
    ("counts", "peaks_per_object", "responses"),
    [
        ([2, 1], 1, [9, 8, 7]),
        ([1, 4], 1, [9, 8, 2]),
        ([1, 1], 2, [9, 8, 7, 2]),
        ([1, 1], 1.5, [9, 8, 7, 2]),
        ([0, 1], 1, [9, 8, 7, 5]),  # unknown: 3.3 by the density
        ([5, 1], 1, [9, 8, 7, 5, 3]),  # five or more, so not 3.3
        (None, 1, [9, 8, 7, 5]),  # no density of class 1, but its label says that there is one
    ],
)
def test_strongest_peaks_as_counted(network, counts, peaks_per_object, responses):
    cues = locate(network, [0, 1], counts, peaks_per_object)
    assert cues.responses.tolist() == responses
    assert set(cues.class_ids.tolist()) == {0, 1}
    assert len(cues.response_maps) == len(cues.points) == len(responses)


def test_peaks_must_pass_the_threshold_too(network):
    assert locate(network, [0, 1], [4, 2], peak_threshold=6.0).responses.tolist() == [9, 8, 7]


def test_density_sums_to_the_counts(network):
    before = network.density.clone()
    for counts, sums in (([2], 2), ([4], 4), ([5], 5), ([0], 3.3), (None, 3.3)):
        density = locate(network, [0], counts).density_maps
        assert density.sum().item() == pytest.approx(sums)
        assert density[0, 3, 3] / density[0, 0, 0] == pytest.approx(2)
        assert (density >= 0).all()
    network.density[0] *= 2  # 6.6 in all: more than five is no contradiction
    assert locate(network, [0], [5]).density_maps.sum().item() == pytest.approx(6.6)
    assert torch.equal(network.density[0] / 2, before[0])


def test_the_network_runs_once_ahead_of_the_peaks(network):
    locate(network, [0, 1], [2, 1])
    assert network.runs == 1


def test_a_class_without_peaks_or_density(network):
    cues = locate(network, [2], [3])
    assert len(cues) == 0
    assert cues.density_maps[2].sum() == 0


def test_the_network_must_count(network):
    class Blind(torch.nn.Module):
        stimulate = None

    with pytest.raises(UserError, match="is 'Blind', which does not count"):
        DensityPeaks(network=Blind())
