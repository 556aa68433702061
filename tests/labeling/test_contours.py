"""Contour maps of networks: class boundaries and outlines of predictions."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from wsis_d2.errors import UserError
from wsis_d2.labeling import ContourNetwork, either_contour, outlines


def instances(masks, scores, classes=None):
    masks = torch.stack(masks) if masks else torch.zeros(0, 10, 12, dtype=torch.bool)
    found = Instances(tuple(masks.shape[1:]), pred_masks=masks, scores=torch.tensor(scores))
    found.pred_classes = torch.tensor(classes or [0] * len(masks), dtype=torch.int64)
    return found


def square(top, left, bottom, right, size=(10, 12)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_outlines_lie_on_both_sides_and_not_at_the_images_border():
    found = outlines(instances([square(0, 3, 5, 8)], [0.75]))
    assert found.dtype == np.float32
    expected = np.zeros((10, 12))
    expected[:6, 2:9] = 0.75  # a pixel beyond the mask
    expected[:4, 4:7] = 0  # what is a pixel inside; the mask begins at the upper border
    assert np.array_equal(found, expected)


def test_outlines_of_several_instances_add_to_certainty():
    masks = [square(1, 1, 5, 5), square(1, 1, 5, 5), square(6, 7, 9, 11)]
    found = outlines(instances(masks, [0.5, 0.8, 0.4]))
    assert found[1, 1] == pytest.approx(0.9)
    assert found[6, 7] == pytest.approx(0.4)
    assert not outlines(instances([], [])).any()


def test_either_contour_is_resized_and_joined():
    small, large = np.array([[0.5]], np.float32), np.array([[0.0, 0.2], [1.0, 0.5]], np.float32)
    for pair in ((small, large), (large, small)):
        assert either_contour(*pair) == pytest.approx(np.array([[0.5, 0.6], [1.0, 0.75]]))


class Network(nn.Module):
    """Gives what it was told to, and keeps its input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, batched_inputs):
        self.inputs = batched_inputs
        return [self.output]


def model(output, **options):
    options = {"resize": None, "min_score": 0.05, "max_pixels": 0} | options
    return ContourNetwork(network=Network(output), **options)


def image(height=10, width=12, labels=(0,)):
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = torch.tensor(labels)
    return {"image": pixels, "height": height, "width": width, "image_labels": labels}


def test_class_boundaries_are_the_contours_of_an_irnet():
    boundary = torch.rand(5, 6)
    network = model({"boundary": boundary, "displacement": torch.zeros(2, 5, 6)}, max_pixels=30)
    (output,) = network([image()])
    assert np.array_equal(output["contours"], boundary.numpy())
    assert network.network.inputs[0]["image"].shape == (3, 5, 6), "reduced to 30 pixels"


def test_predictions_of_other_classes_and_of_low_score_have_no_outline():
    masks = [square(1, 1, 4, 4), square(5, 1, 8, 4), square(5, 7, 8, 10)]
    output = {"instances": instances(masks, [0.9, 0.04, 0.9], [2, 2, 1])}
    network = model(output, resize=T.ResizeShortestEdge([20, 20], 100))
    (found,) = network([image(labels=[0, 2])])
    assert np.array_equal(found["contours"], outlines(instances(masks[:1], [0.9])))
    assert network.network.inputs[0]["image"].shape == (3, 20, 24)
    assert network.network.inputs[0]["height"] == 10


@pytest.mark.parametrize("output", [{"sem_seg": 0}, {"instances": Instances((4, 4))}])
def test_a_network_without_contours_is_refused(output):
    with pytest.raises(UserError, match="a Network gives no contours: take .* IRNet"):
        model(output)([image()])
