"""Regions to ignore: high response that no pseudo mask claims."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.structures import Instances

from wsis_d2.labeling import WISE, IRNetLabels, LabelGenerator, ignore_regions

SIZE = (8, 10)


def instances(*masks):
    masks = torch.stack(masks) if masks else torch.zeros(0, *SIZE, dtype=torch.bool)
    return Instances(SIZE, pred_masks=masks)


def test_unclaimed_pixels_above_the_threshold_of_their_class():
    evidence = torch.full((2, *SIZE), -3.0)
    evidence[0, 1, 2], evidence[0, 4, 4], evidence[0, 6, 6] = 4.0, 2.5, 1.5
    evidence[1, 0, 0] = 0.1  # the maximum of its own class
    claimed = torch.zeros(SIZE, dtype=torch.bool)
    claimed[1, 2] = True
    regions = ignore_regions(evidence, torch.tensor([5, 2]), instances(claimed), threshold=0.5)
    assert regions.image_size == SIZE
    assert regions.pred_classes.tolist() == [5, 2]
    assert regions.pred_masks[0].nonzero().tolist() == [[4, 4]]
    assert regions.pred_masks[1].nonzero().tolist() == [[0, 0]]


def test_classes_without_a_pixel_have_no_region():
    evidence = torch.zeros(3, *SIZE)
    evidence[0] = -1.0  # no response at all
    evidence[2, 3, 3] = 1.0  # claimed
    claimed = torch.zeros(SIZE, dtype=torch.bool)
    claimed[3, 3] = True
    regions = ignore_regions(evidence, torch.tensor([0, 1, 2]), instances(claimed), 0.3)
    assert len(regions) == 0
    assert regions.pred_masks.shape == (0, *SIZE)


def test_small_maps_are_upsampled_and_images_without_instances_have_regions_too():
    evidence = torch.zeros(1, 4, 5)
    evidence[0, :, :2] = 1.0
    regions = ignore_regions(evidence, torch.tensor([1]), instances(), 0.5)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[:, :4] = True
    assert torch.equal(regions.pred_masks[0], expected)


@dataclass
class CAMCues:
    cam: torch.Tensor
    class_ids: torch.Tensor


@dataclass
class PeakCues:
    class_response_maps: torch.Tensor


class Generator(LabelGenerator):
    def __init__(self, cues, ignore_threshold):
        super().__init__()
        self.cues, self.ignore_threshold = cues, ignore_threshold

    def label(self, x):
        return {"instances": instances(), "cues": self.cues}


class OfCAMs(Generator):
    evidence = IRNetLabels.evidence


class OfPeaks(Generator):
    evidence = WISE.evidence


@pytest.mark.parametrize("kind", ["cams", "peaks"])
def test_generators_add_the_regions_of_the_labelled_classes(kind):
    maps = torch.rand(4, *SIZE)
    labels = torch.tensor([1, 3])
    if kind == "cams":
        generator = OfCAMs(CAMCues(maps[labels], labels), 0.8)
    else:
        generator = OfPeaks(PeakCues(maps), 0.8)
    (output,) = generator([{"image_labels": labels}])
    expected = ignore_regions(maps[labels], labels, instances(), 0.8)
    assert torch.equal(output["ignore_regions"].pred_masks, expected.pred_masks)
    assert output["ignore_regions"].pred_classes.tolist() == [1, 3]
    generator.ignore_threshold = 0.0
    assert "ignore_regions" not in generator([{"image_labels": labels}])[0]


def test_a_generator_without_evidence_has_no_regions():
    assert "ignore_regions" not in Generator(None, 0.8)([{"image_labels": torch.tensor([1])}])[0]
