"""Instances of IRNet as points: which of them count, and where they are."""

import pytest
import torch

from wsis_d2.labeling import InstanceWalk, IRNetCentroids
from wsis_d2.labeling.irnet_walk import walk_instance_cams
from wsis_d2.labeling.localizers.irnet import instance_points

CELLS, STRIDE = 16, 4
SIZE = (63, 62)  # the map reaches beyond the image


def _relations(boundary=False):
    """Two objects: class 2 in the left half, class 0 (weaker) in the right; each has its pinwheel.

    The paths of the left end at (7, 4), those of the right at (7, 11).
    """
    y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    middle = torch.where(x < 8, 4, 11)
    displacement = torch.stack([7 - y, middle - x]).float()
    cam = torch.zeros(2, CELLS, CELLS)
    cam[0, 4:12, 9:14] = 0.5
    cam[1, 4:12, 1:7] = 1.0
    edges = torch.zeros(CELLS, CELLS) if boundary else None
    return walk_instance_cams(
        cam, torch.tensor([0, 2]), edges, displacement, centroid_threshold=1.5, num_steps=16
    )


class Walk(InstanceWalk):
    """Of which the cues are known."""

    def __init__(self, cues, **changes):
        options = {"normalization": "image", "bg_threshold": 0.25, "min_area": 0.01, **changes}
        super().__init__(
            network=torch.nn.Identity(),
            cams=object(),
            stride=STRIDE,
            use_boundary=True,
            use_displacement=True,
            options={},
            **options,
        )
        self.cues = cues

    def forward(self, x):
        return self.cues


def _localize(cues=None, max_peaks=100, **changes):
    walk = Walk(cues or _relations(), **changes)
    localizer = IRNetCentroids(walk=walk, num_classes=4, max_peaks=max_peaks)
    return localizer, localizer({"height": SIZE[0], "width": SIZE[1]})


def test_two_objects():
    localizer, cues = _localize()
    assert cues.class_ids.tolist() == [2, 0]
    assert cues.responses.tolist() == [1.0, 0.5]
    assert cues.class_scores.tolist() == [1.0, 0.5]
    # The centres of cells (7, 4) and (7, 11).
    assert cues.points.tolist() == [[30, 18], [30, 46]]
    assert cues.response_maps.shape == (2, *SIZE)
    assert torch.allclose(cues.response_maps.sum((1, 2)), torch.ones(2))
    assert cues.response_maps[0, 30, 18] > 0
    assert (cues.response_maps[0, :, 34:] == 0).all()
    assert cues.class_response_maps.shape == (4, *SIZE)
    assert cues.class_response_maps.amax((1, 2)).tolist() == [0.5, 0, 1, 0]
    assert localizer.network is localizer.walk.network
    assert localizer.cams is localizer.walk.cams


def test_the_random_walk_spreads_the_responses():
    _, cues = _localize(_relations(boundary=True))
    assert cues.points.tolist()[0] == [30, 18]
    assert (cues.response_maps[0] > 0).sum() > (_localize()[1].response_maps[0] > 0).sum()


def test_responses_are_those_of_the_pixels():
    relations = _relations()
    relations.instance_scores[1, 7, 3] = 4.0  # a trapped cell in the left object
    _, cues = _localize(relations, bg_threshold=0.1)
    # It keeps 49/64 of its height above the 1 around it.
    assert cues.responses.tolist() == pytest.approx([1, 0.5 / (1 + 3 * 49 / 64)])
    assert torch.equal(cues.responses, cues.class_scores)


@pytest.mark.parametrize(
    ("changes", "class_ids"),
    [
        ({"bg_threshold": 0.6}, [2]),
        # The left object has 8 x 6 of 16 x 16 cells, the right one 8 x 5.
        ({"min_area": 0.18}, [2]),
        ({"min_area": 0.5}, []),
        ({"max_peaks": 1}, [2]),
        ({"normalization": "instance", "min_area": 0.05}, [2, 0]),
    ],
)
def test_instances_that_do_not_count(changes, class_ids):
    cues = _localize(**changes)[1]
    assert cues.class_ids.tolist() == class_ids
    assert cues.response_maps.shape == (len(class_ids), *SIZE)


def test_no_evidence_at_the_centroid_or_no_paths():
    relations = _relations()
    index = torch.arange(2)
    scores = relations.instance_scores.clone()
    centroids = instance_points(relations, index, scores, 0.25)
    assert centroids.tolist() == [[7, 11], [7, 4]]
    # A ring, strongest at (5, 2).
    scores[1, 6:9, 3:6] = 0
    scores[1, 5, 2] = 1.5
    assert instance_points(relations, index, scores, 0.25).tolist() == [[7, 11], [5, 2]]
    relations.centroids = None
    assert instance_points(relations, index, scores, 0.25).tolist() == [[4, 9], [5, 2]]
