"""Images of more pixels than the config allows: networks see less, labels have the full size."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wsis_d2.labeling import (
    CAMFolder,
    LabelGenerator,
    LocationCues,
    MultiScaleCAM,
    reduce_image,
    reduce_input,
    reduced_size,
    write_cam,
)
from wsis_d2.proposals.build import ProposalSource
from wsis_d2.structures import MaskProposals, decode_mask, encode_mask

SIDES = st.integers(1, 8000)


@given(SIDES, SIDES, st.integers(1, 10**7))
def test_reduced_sizes_fit_and_keep_the_shape(height, width, max_pixels):
    reduced = reduced_size((height, width), max_pixels)
    if height * width <= max_pixels:
        assert reduced == (height, width)
        return
    assert reduced[0] * reduced[1] <= max(max_pixels, *reduced)  # a side is at least 1
    for side, old in zip(reduced, (height, width)):
        exact = old * np.sqrt(max_pixels / (height * width))
        assert max(1, exact - 1) <= side + 1e-6 <= max(1, exact) + 1e-3
    assert reduced_size((height, width), 0) == (height, width)


def test_an_image_that_fits_stays_as_it_is():
    x = {"image": torch.zeros(3, 4, 6, dtype=torch.uint8), "height": 4, "width": 6}
    assert reduce_input(x, 24) is x
    assert reduce_input(x, 0) is x
    assert reduce_image(x["image"], 24) is x["image"]


def test_a_reduced_input():
    image = torch.arange(16, dtype=torch.uint8).repeat_interleave(2).expand(3, 8, 32)
    x = {"image": image, "height": 8, "width": 32, "image_labels": [1]}
    reduced = reduce_input(x, 64)
    assert (reduced["height"], reduced["width"], reduced["full_size"]) == (4, 16, (8, 32))
    assert reduced["image_labels"] == [1]
    assert reduced["image"].dtype == torch.uint8
    assert torch.equal(reduced["image"][:, :, 1:-1], torch.arange(1, 15).expand(3, 4, 14))
    assert (x["height"], x["image"].shape) == (8, (3, 8, 32))
    # Resized by the mapper: the labels' size changes alone.
    x = {**x, "image": image[:, ::4, ::4]}
    assert reduce_input(x, 64)["image"] is x["image"]
    assert reduce_input(x, 64)["full_size"] == (8, 32)


class Thresholds(LabelGenerator):
    """One mask and a label map where the image is bright."""

    network = None

    def label(self, x):
        size = (x["height"], x["width"])
        assert x["image"].shape[1:] == size
        bright = x["image"][0] > 100
        instances = Instances(size)
        instances.pred_masks = bright[None]
        instances.pred_boxes = Boxes(torch.zeros(1, 4))
        instances.scores, instances.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        instances.candidates = [[{"segmentation": encode_mask(bright.numpy()), "weight": 1.0}]]
        (y, x_) = bright.nonzero()[0].tolist()
        cues = LocationCues(
            class_ids=torch.zeros(1, dtype=torch.int64),
            responses=torch.ones(1),
            class_scores=torch.ones(1),
            points=torch.tensor([[y, x_]]),
            response_maps=torch.zeros(1, *size),
            class_response_maps=torch.zeros(1, *size),
        )
        label_map = bright.to(torch.uint8)
        return {"instances": instances, "sem_seg_labels": label_map, "cues": cues}

    def evidence(self, x, output):
        return (x["image"][:1] > 50).float(), torch.zeros(1, dtype=torch.int64)


def test_labels_are_made_reduced_and_brought_to_the_full_size():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (24, 36), dtype=np.uint8)).expand(3, 24, 36)
    x = {"image": image, "height": 24, "width": 36}
    generator = Thresholds()
    generator.ignore_threshold = 0.5
    small = {"image": reduce_image(image, 12 * 18), "height": 12, "width": 18}
    (expected,) = generator([small])
    generator.max_pixels = 12 * 18
    (found,) = generator([x])

    def doubled(masks):
        return masks.repeat_interleave(2, -1).repeat_interleave(2, -2)

    for key in ("instances", "ignore_regions"):
        assert torch.equal(found[key].pred_masks, doubled(expected[key].pred_masks))
        assert torch.equal(found[key].pred_classes, expected[key].pred_classes)
    assert torch.equal(found["sem_seg_labels"], doubled(expected["sem_seg_labels"]))
    assert torch.equal(found["cues"].points, 2 * expected["cues"].points)
    mask = found["instances"].pred_masks[0]
    ys, xs = mask.nonzero().unbind(1)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert found["instances"].pred_boxes.tensor[0].tolist() == box
    ((candidate,),) = found["instances"].candidates
    assert (decode_mask(candidate["segmentation"]) == mask.numpy()).all()

    generator.resizes_images = True
    (found,) = generator([x])
    assert torch.equal(found["instances"].pred_masks[0], image[0] > 100)


class Brightness(nn.Module):
    """Its CAM of class c is the channel c, at stride 2."""

    stride = 2
    pixel_mean = torch.zeros(3)
    most_pixels = 0

    def preprocess(self, inputs):
        images = torch.stack([x["image"] for x in inputs]).float()
        self.most_pixels = max(self.most_pixels, images[0, 0].numel())
        return type("Batch", (), {"tensor": images})

    def class_activation_maps(self, images):
        return nn.functional.avg_pool2d(images, self.stride, ceil_mode=True)


@pytest.mark.parametrize("flip", [False, True])
def test_cams_of_a_reduced_image_have_the_grid_of_the_full_one(flip):
    ramp = torch.linspace(0, 250, 120).expand(3, 80, 120).to(torch.uint8)
    x = {"image": ramp, "image_labels": torch.tensor([0, 2]), "height": 80, "width": 120}
    options = {"scales": (1.0, 0.5), "flip": flip, "stride": 4}
    (whole,) = MultiScaleCAM(classifier=Brightness(), **options)([x])
    classifier = Brightness()
    (reduced,) = MultiScaleCAM(classifier=classifier, max_pixels=40 * 60, **options)([x])
    assert classifier.most_pixels == 40 * 60
    assert reduced["cam"].shape == whole["cam"].shape == (2, 20, 30)
    assert torch.allclose(reduced["cam"], whole["cam"], atol=0.03)


def test_stored_cams_on_the_grid_of_a_reduced_image(tmp_path):
    cam = torch.linspace(0, 1, 30).expand(1, 20, 30)
    write_cam(tmp_path / "a.npz", cam, torch.tensor([1]))
    folder = CAMFolder(folder=type("F", (), {"path": lambda _, x: tmp_path / "a.npz"})(), stride=4)
    x = {"image_labels": [1], "image": torch.zeros(3, 80, 120), "height": 80, "width": 120}
    assert folder.get(x)[0].shape == (1, 20, 30)
    reduced, class_ids = folder.get(reduce_input(x, 40 * 60))
    assert reduced.shape == (1, 10, 15)
    assert class_ids.tolist() == [1]
    assert torch.allclose(reduced, cam.unfold(2, 2, 2).mean(3)[:, ::2], atol=1e-3)


def test_proposals_of_a_reduced_image_are_read_at_the_size_of_their_file():
    asked = []

    class Reader:
        def read(self, file_name, image_id, size):
            asked.append(size)
            mask = np.zeros((1, *size), bool)
            mask[:, : size[0] // 2] = True
            return MaskProposals.from_masks(mask, np.ones(1))

    d = {"file_name": "a", "image_id": 0, "height": 4, "width": 6, "full_size": (8, 12)}
    proposals = ProposalSource(Reader()).get(d)
    assert asked == [(8, 12)]
    assert proposals.size == (4, 6)
    assert proposals.decode()[0].tolist() == [[True] * 6] * 2 + [[False] * 6] * 2
