"""Asking a promptable segmenter: batches, order, sizes, and what becomes of its masks."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.proposals import (
    PROMPTABLE_SEGMENTER_REGISTRY,
    MaskPrompts,
    PromptableSegmenter,
    PromptedMasks,
    build_proposal_source,
)

SIZE = (20, 30)


class Squares(PromptableSegmenter):
    """Around the first point a square of each half side; they grow by the number of points.

    The predicted IoU is what the constructor says, whatever the prompt.
    """

    def __init__(self, half_sides=(1, 3), scores=(0.5, 0.7)):
        super().__init__()
        self.half_sides, self.scores = half_sides, scores
        self.images, self.batches = [], []

    def embed(self, image):
        self.images.append(image)
        return image

    def predict(self, embedding, prompts):
        self.batches.append(prompts)
        count = prompts.points.shape[1]
        assert (prompts.labels >= 0).all()
        masks = torch.zeros(len(prompts), len(self.half_sides), *prompts.size, dtype=torch.bool)
        for mask, points in zip(masks, prompts.points.long()):
            y, x = points[0].tolist()
            for candidate, half in zip(mask, self.half_sides):
                half += count - 1
                candidate[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = True
        return masks, torch.tensor(self.scores).expand(len(prompts), -1)


def prompts(points, counts=None, size=SIZE):
    """One point on each object, and beside it as many others as make up its count."""
    counts = counts or [1] * len(points)
    labels = torch.full((len(points), max(counts, default=1)), -1)
    for row, count in zip(labels, counts):
        row[:count] = 0
    labels[:, :1] = 1
    points = torch.tensor(points, dtype=torch.float32).reshape(-1, 1, 2)
    return MaskPrompts(size, points.expand(-1, labels.shape[1], -1), labels)


def image(channels=3):
    return torch.arange(channels * 4 * 6, dtype=torch.uint8).reshape(channels, 4, 6)


def test_an_image_is_embedded_once_and_prompts_come_in_batches():
    segmenter = Squares()
    masks = PromptedMasks(segmenter, prompts_per_batch=2)
    points = [[4, 4], [4, 14], [14, 4], [14, 14], [10, 24]]
    masks.segment(image(), [prompts(points), prompts(points[:3])])
    assert len(segmenter.images) == 1
    assert [len(batch) for batch in segmenter.batches] == [2, 2, 1, 2, 1]
    first = torch.cat([batch.points[:, 0] for batch in segmenter.batches])
    assert first.tolist() == [*points, *points[:3]]


def test_prompts_of_a_batch_have_equally_many_points():
    segmenter = Squares()
    PromptedMasks(segmenter).segment(
        image(), [prompts([[4, 4], [4, 14], [14, 4], [14, 14]], counts=[2, 1, 3, 1])]
    )
    found = {
        tuple(point.tolist()): batch.points.shape[1]
        for batch in segmenter.batches
        for point in batch.points[:, 0]
    }
    assert found == {(4, 4): 2, (4, 14): 1, (14, 4): 3, (14, 14): 1}
    assert len(segmenter.batches) == 3


def test_masks_are_proposals_best_predicted_iou_first():
    proposals = PromptedMasks(Squares()).segment(image(), [prompts([[10, 4], [10, 20]])])
    assert proposals.size == SIZE
    assert proposals.objectness.tolist() == pytest.approx([0.7, 0.7, 0.5, 0.5])
    expected = np.zeros((4, *SIZE), bool)
    expected[0, 7:14, 1:8] = expected[1, 7:14, 17:24] = True
    expected[2, 9:12, 3:6] = expected[3, 9:12, 19:22] = True
    assert np.array_equal(proposals.decode(), expected)


def test_predicted_iou_is_limited_to_what_an_iou_can_be():
    segmenter = Squares(scores=(-0.2, 1.3))
    proposals = PromptedMasks(segmenter).segment(image(), [prompts([[10, 4]])])
    assert proposals.objectness.tolist() == [1, 0]


@pytest.mark.parametrize(("threshold", "count"), [(0.9, 4), (0.5, 3), (0.3, 2)])
def test_masks_that_are_alike_are_dropped(threshold, count):
    # Of 49 pixels 42 are common, IoU 0.75; of 9 pixels 6, IoU 0.5; small in large: 9/49.
    segmenter = PromptedMasks(Squares(), nms_threshold=threshold)
    proposals = segmenter.segment(image(), [prompts([[10, 10], [10, 11]])])
    assert len(proposals) == count


@pytest.mark.parametrize(
    ("image_format", "channels", "expected"),
    [("RGB", 3, [0, 1, 2]), ("BGR", 3, [2, 1, 0]), ("L", 1, [0, 0, 0])],
)
def test_the_segmenter_sees_rgb(image_format, channels, expected):
    segmenter = Squares()
    given = image(channels)
    PromptedMasks(segmenter, image_format=image_format).segment(given, [prompts([[4, 4]])])
    assert torch.equal(segmenter.images[0], given[expected])


def test_nothing_to_ask_gives_no_proposals():
    segmenter = Squares()
    proposals = PromptedMasks(segmenter).segment(image(), [prompts([]), prompts([])])
    assert len(proposals) == 0
    assert proposals.size == SIZE
    assert not segmenter.images


def config(*options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "PROPOSALS.SOURCE", "prompted", *options])
    return cfg


@pytest.fixture
def registered():
    """A segmenter of the user's own."""
    PROMPTABLE_SEGMENTER_REGISTRY._do_register("Squares", lambda cfg: Squares())
    yield
    del PROMPTABLE_SEGMENTER_REGISTRY._obj_map["Squares"]


@pytest.mark.usefixtures("registered")
def test_a_source_by_config_limits_area_and_number():
    options = ["PROPOSALS.PROMPTED.SEGMENTER", "Squares", "PROPOSALS.MIN_AREA", "0.02"]
    source = build_proposal_source(config(*options, "PROPOSALS.MAX_PER_IMAGE", "3"))
    assert source.prompted
    x = {"image": image(), "height": 20, "width": 30, "file_name": "none.jpg", "image_id": 1}
    points = [[4, 4], [4, 14], [14, 4], [14, 14]]
    proposals = source.get(x, [prompts(points)])
    assert proposals.areas.tolist() == [49] * 3  # of 600 pixels; 9 are too few
    with pytest.raises(UserError, match="located objects"):
        source.get(x)


def test_other_sources_are_not_prompted(tmp_path):
    options = ["PROPOSALS.SOURCE", "builtin", "PROPOSALS.PATH", str(tmp_path)]
    assert not build_proposal_source(config(*options)).prompted


def test_errors_name_the_key():
    with pytest.raises(UserError, match=r"PROPOSALS\.PROMPTED\.SEGMENTER is 'None such'"):
        build_proposal_source(config("PROPOSALS.PROMPTED.SEGMENTER", "None such"))
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'YUV-BT\.601'"):
        PromptedMasks(Squares(), image_format="YUV-BT.601")
