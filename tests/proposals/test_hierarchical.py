import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from scipy import ndimage

from wsis_d2.data.shapes import make_shapes_image
from wsis_d2.proposals import hierarchical, hierarchical_proposals


def encode(masks):
    return [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]


def iou(a, b):
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)


def textured_disc(height=120, width=160, seed=0):
    """A disc of noise on another noise, and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.45 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.28 * height) ** 2
    noise = ndimage.gaussian_filter(rng.normal(0, 60, (height, width, 1)), (1.5, 1.5, 0))
    image = np.where(disc[..., None], (170, 90, 60), (90, 120, 130)) + noise
    return image.clip(0, 255).astype(np.uint8), disc


@pytest.mark.parametrize("factor", [1, 4])  # the second one is reduced to the working size first
def test_an_obvious_disc_is_among_the_best(factor):
    image, disc = textured_disc()
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    disc = np.kron(disc, np.ones((factor, factor), dtype=bool))
    proposals = hierarchical_proposals(image)
    assert proposals.size == disc.shape
    assert max(iou(mask, disc) for mask in proposals.decode()[:10]) > 0.9


def test_the_best_proposal_at_a_point_of_an_object_is_mostly_the_object():
    """What WISE asks of objectness, on held-out images (0.84 of 250 objects when fitted)."""
    rng = np.random.default_rng(0)
    overlaps, oracle = [], []
    for seed in range(12):
        image, instances, _ = make_shapes_image(np.random.default_rng([77, seed]))
        proposals = hierarchical_proposals(image)
        masks = proposals.decode()
        for i in range(1, instances.max() + 1):
            truth = instances == i
            y, x = rng.choice(np.argwhere(truth))
            first = np.flatnonzero(proposals.containing([[y, x]])[0])[:1]
            overlaps += [iou(masks[j], truth) for j in first] or [0.0]
            oracle.append(max(iou(mask, truth) for mask in masks))
    assert np.mean(oracle) > 0.8
    assert np.mean(np.array(overlaps) > 0.5) > 0.6


def test_same_image_same_proposals():
    image, _ = textured_disc()
    assert hierarchical_proposals(image).to_json() == hierarchical_proposals(image).to_json()


def test_limits_hold():
    image, _ = textured_disc()
    proposals = hierarchical_proposals(
        image, max_proposals=15, min_area=0.01, max_area=0.4, nms_threshold=0.6
    )
    assert 0 < len(proposals) <= 15
    assert ((proposals.objectness >= 0) & (proposals.objectness <= 1)).all()
    fraction = proposals.areas / (120 * 160)
    assert ((fraction >= 0.01) & (fraction <= 0.4)).all()
    masks = proposals.decode()
    for i in range(len(masks)):
        assert all(iou(masks[i], masks[j]) <= 0.6 for j in range(i))


def test_proposals_have_no_holes():
    image, _ = textured_disc(seed=3)
    for mask in hierarchical_proposals(image).decode():
        # Pixels that touch the outside by a corner only may differ between the neighborhoods.
        filled = ndimage.binary_fill_holes(mask, structure=np.ones((3, 3)))
        assert np.array_equal(filled, mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 7), (64, 3)])
def test_tiny_images(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert hierarchical_proposals(image).size == shape


def test_an_image_without_contours_has_no_proposals():
    assert len(hierarchical_proposals(np.full((50, 60, 3), 128, dtype=np.uint8))) == 0


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_images_are_refused(image):
    with pytest.raises(ValueError):
        hierarchical_proposals(image)


def test_unknown_color_space_is_refused():
    with pytest.raises(ValueError, match="xyz"):
        hierarchical_proposals(np.zeros((4, 4, 3), np.uint8), color_spaces=("xyz",))


def region_graph(labels):
    zeros = np.zeros(labels.shape, dtype=np.int64)
    bins = [(zeros, count) for count in hierarchical._COLOR_BINS] + [(zeros, 24)]
    return hierarchical._RegionGraph(labels, bins, np.ones(labels.shape))


def random_regions(seed, count=9):
    """A Voronoi map of `count` regions."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 2)) * 24
    y, x = np.mgrid[:24, :24]
    distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return np.unique(distance.argmin(axis=-1), return_inverse=True)[1].reshape(24, 24)


def test_cues_are_those_of_the_drawn_masks():
    labels = random_regions(4)
    regions = region_graph(labels)
    rng = np.random.default_rng(0)
    horizontal, vertical = rng.random((24, 23)), rng.random((23, 24))
    candidates = rng.random((20, regions.count)) < 0.5
    candidates = candidates[candidates.any(axis=1) & ~candidates.all(axis=1)]
    cues = hierarchical._Objectness(regions, horizontal, vertical).cues(candidates)
    for i, members in enumerate(candidates):
        mask = members[labels]
        cut_h, cut_v = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
        in_h, in_v = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
        outline = cut_h.sum() + cut_v.sum()
        border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
        logs = np.log(horizontal + 0.03)[cut_h].sum() + np.log(vertical + 0.03)[cut_v].sum()
        # Contours inside a base region count for the region of the left or upper pixel.
        inner = horizontal[in_h].sum() + vertical[in_v].sum()
        area = mask.sum()
        covariance = np.cov(np.argwhere(mask).T, bias=True) + np.eye(2) / 12
        expected = {
            "outline_contour": logs / outline,
            "inner_contour": inner / outline,
            "compactness": 4 * np.sqrt(area) / (outline + border),
            "border_contact": border / (outline + border),
            "ellipse_fill": area / (4 * np.pi * np.sqrt(np.linalg.det(covariance))),
            "log_area": np.log(mask.mean()),
        }
        for name, value in expected.items():
            assert cues[name][i] == pytest.approx(value, rel=1e-4), name


def test_fill_holes_against_scipy():
    labels = random_regions(5, 25)
    regions = region_graph(labels)
    candidates = np.random.default_rng(1).random((60, regions.count)) < 0.6
    filled = regions.fill_holes(candidates)
    drawn = candidates[:, labels]
    expected = np.stack([ndimage.binary_fill_holes(mask) for mask in drawn])
    # Some have holes, or the test would say nothing. Regions count as neighbors by their sides, as
    # pixels do for scipy.
    assert (expected != drawn).any()
    np.testing.assert_array_equal(filled[:, labels], expected)
