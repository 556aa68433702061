import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image
from scipy import ndimage

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.proposals import (
    ContourMaps,
    build_proposal_source,
    contour_proposals,
    photo_proposals,
    write_contours,
)
from wsis_d2.proposals.contour_hierarchy import base_regions, merge, region_candidates
from wsis_d2.proposals.contour_objectness import (
    appearance_cues,
    candidate_cues,
    objectness_model,
)
from wsis_d2.proposals.contour_proposals import choose_diverse
from wsis_d2.proposals.regions import RegionGraph


def iou(a, b):
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)


def drawing(height=120, width=160):
    """An image of five regions that lie in and beside each other, and their masks."""
    y, x = np.mgrid[:height, :width]
    disc = (y - 45) ** 2 + (x - 45) ** 2 < 30**2
    masks = [
        disc & (x < 45),
        disc & (x >= 45),
        (abs(y - 80) < 25) & (abs(x - 120) < 28),
        (y - 80) ** 2 + (x - 120) ** 2 < 12**2,
        (abs(y - 100) < 14) & (abs(x - 40) < 30),
    ]
    colors = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (220, 220, 40), (20, 20, 20)]
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    for mask, color in zip(masks, colors):
        image[mask] = color
    return image, masks


def contours_of(image):
    """Smooth outlines where the color changes."""
    gray = image.astype(np.float32)
    edges = np.zeros(image.shape[:2], dtype=np.float32)
    for axis in (0, 1):  # on both pixels of a side
        lower, upper = ([slice(None)] * 2 for _ in range(2))
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        lower, upper = tuple(lower), tuple(upper)
        cut = (gray[lower] != gray[upper]).any(axis=-1)
        edges[lower] = np.maximum(edges[lower], cut)
        edges[upper] = np.maximum(edges[upper], cut)
    # A ridge, as of a network: on a plateau the watershed may run anywhere.
    ridge = cv2.GaussianBlur(edges, (0, 0), 1.5)
    return ridge / max(ridge.max(), 1e-6)


def noisy(contours, seed=0):
    """With weak contours inside the regions, so that they fall apart at first."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(contours.shape), 2)
    return np.clip(contours + 0.5 * (noise - noise.min()), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    image, masks = drawing()
    return image, masks, noisy(contours_of(image))


def test_every_region_and_union_of_neighbors_is_proposed(drawn):
    image, masks, contours = drawn
    options = {"max_proposals": 2000, "nms_threshold": 0.99, "diversity": 0.0}  # all candidates
    proposals = contour_proposals(image, ContourMaps.of(contours), **options).decode()
    # The rectangle with the disc in it: holes are filled. The two halves of a disc: neighbors.
    wanted = [masks[0], masks[1], masks[0] | masks[1], masks[2], masks[3], masks[4]]
    for i, mask in enumerate(wanted):
        assert max(iou(mask, other) for other in proposals) > 0.85, i


def test_same_image_same_proposals(drawn):
    image, _, contours = drawn
    first, second = (contour_proposals(image, ContourMaps.of(contours)) for _ in range(2))
    assert len(first) > 5
    assert first.to_json() == second.to_json()


def test_limits_hold(drawn):
    image, _, contours = drawn
    proposals = contour_proposals(
        image,
        ContourMaps.of(contours),
        max_proposals=30,
        min_area=0.01,
        max_area=0.4,
        nms_threshold=0.6,
    )
    assert 5 < len(proposals) <= 30
    assert ((proposals.objectness >= 0) & (proposals.objectness <= 1)).all()
    fraction = proposals.areas / image[..., 0].size
    assert ((fraction >= 0.01) & (fraction <= 0.4)).all()
    masks = proposals.decode()
    for i in range(len(masks)):
        assert all(iou(masks[i], masks[j]) <= 0.6 + 1e-6 for j in range(i))


def test_a_photo_is_reduced_and_its_proposals_enlarged(drawn):
    image, masks, _ = drawn
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    seen = []

    def contours(working):
        seen.append(working.shape)
        return ContourMaps.of(contours_of(working))

    proposals = photo_proposals(large, contours, longest_edge=160)
    assert seen == [(120, 160, 3)]
    assert proposals.size == (360, 480)
    truth = np.kron(masks[4], np.ones((3, 3), dtype=bool))
    assert max(iou(truth, mask) for mask in proposals.decode()) > 0.8


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 7), (64, 3)])
def test_tiny_images(shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    maps = ContourMaps.of(rng.random(shape))
    assert contour_proposals(image, maps).size == shape


def test_no_contours_no_proposals():
    image = np.full((50, 60, 3), 128, dtype=np.uint8)
    assert len(contour_proposals(image, ContourMaps.of(np.zeros((50, 60))))) == 0


def test_wrong_input_is_refused(drawn):
    image, _, contours = drawn
    with pytest.raises(ValueError, match="contours of"):
        contour_proposals(image, ContourMaps.of(contours[:-1]))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        contour_proposals(image, ContourMaps.of(contours * 255))
    with pytest.raises(ValueError, match="uint8"):
        photo_proposals(image / 255, ContourMaps.of)


def stripes(widths, height=10):
    return RegionGraph(np.repeat(np.arange(len(widths)), widths)[None].repeat(height, axis=0))


def test_weakest_boundary_is_merged_first():
    regions = stripes([5, 5, 5, 5])
    strength = np.array([0.2, 0.1, 0.4]) * regions.length
    tree = merge(regions, strength, np.zeros((4, 3)))
    assert tree.children.tolist() == [[1, 2], [0, 4], [3, 5]]
    np.testing.assert_allclose(tree.levels[4:], [0.1, 0.2, 0.4])
    assert tree.death.tolist() == [2, 1, 1, 3, 2, 3, 4]


def test_color_and_size_count():
    regions = stripes([5, 5, 5, 1])
    strength = np.array([0.1, 0.1, 0.15]) * regions.length
    colors = np.array([[0.5, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert merge(regions, strength, colors, color_weight=1.0).children[0].tolist() == [1, 2]
    small_first = merge(regions, strength, colors, color_weight=1.0, size_power=1.0)
    assert small_first.children[0].tolist() == [2, 3]


def test_candidates_are_different_and_whole(drawn):
    image, _, contours = drawn
    maps = ContourMaps.of(contours)
    regions = base_regions(contours)
    candidates, levels = region_candidates(regions, maps, np.zeros((regions.count, 3)))
    assert len(np.unique(candidates, axis=0)) == len(candidates)
    assert levels.shape == (len(regions.ends), 2)
    structure = np.ones((3, 3))
    for mask in candidates[:: max(1, len(candidates) // 50)][:, regions.labels]:
        assert np.array_equal(ndimage.binary_fill_holes(mask, structure), mask)


def test_cues_are_those_of_the_drawn_masks():
    rng = np.random.default_rng(3)
    labels = np.kron(np.arange(36).reshape(6, 6), np.ones((4, 4), dtype=int))
    regions = RegionGraph(labels)
    height, width = labels.shape
    contours = rng.random((height, width)).astype(np.float32)
    sides = rng.random((5, height, width)).astype(np.float32)
    colors = rng.random((regions.count, 3))
    levels = rng.random((len(regions.ends), 4))
    candidates = rng.random((15, regions.count)) < 0.4
    maps = ContourMaps(contours, sides)
    cues = candidate_cues(candidates, regions, maps, colors, levels)
    assert cues.shape == (15, 88)
    features = rng.random((regions.count, 7)).astype(np.float32)
    appearance = appearance_cues(candidates, regions, features)
    assert appearance.shape == (15, 21)
    for members, row, seen in zip(candidates, cues, appearance):
        mask = members[labels]
        cut_h, cut_v = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
        outline = cut_h.sum() + cut_v.sum()
        between_h = labels[:, 1:] != labels[:, :-1]
        between_v = labels[1:] != labels[:-1]
        in_h = mask[:, 1:] & mask[:, :-1] & between_h
        in_v = mask[1:] & mask[:-1] & between_v
        border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()

        def along(values, where_h, where_v):
            return (
                np.maximum(values[:, 1:], values[:, :-1])[where_h].sum()
                + np.maximum(values[1:], values[:-1])[where_v].sum()
            )

        covariance = np.cov(np.argwhere(mask).T, bias=True) + np.eye(2) / 12
        inner = in_h.sum() + in_v.sum()
        ring = np.zeros(7)
        for cut, first, second in (
            (cut_h, (slice(None), slice(1, None)), (slice(None), slice(None, -1))),
            (cut_v, (slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ):
            other = np.where(mask[first], labels[second], labels[first])
            ring += features[other[cut]].sum(axis=0)
        expected = {
            0: np.log(mask.mean()),
            2: border / (border + outline),
            4: 4 * np.sqrt(mask.sum()) / (border + outline),
            5: mask.sum() / (4 * np.pi * np.sqrt(np.linalg.det(covariance))),
            7: np.log(covariance[1, 1] / covariance[0, 0]),
            15: mask[0].mean(),
            18: mask[:, -1].mean(),
            19: along(contours, cut_h, cut_v) / outline,
            23: along(sides[3], cut_h, cut_v) / outline,
            26: along_gap(contours, 0.1, cut_h, cut_v) / outline,
            39: along(contours, in_h, in_v) / outline,
            59: along(contours, in_h, in_v) / max(inner, 1),
            79: contours[mask].mean(),
        }
        for index, value in expected.items():
            assert row[index] == pytest.approx(value, rel=1e-3, abs=1e-4), index
        np.testing.assert_allclose(seen[:7], features[labels[mask]].mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(seen[7:14], ring / outline, rtol=1e-4)
        np.testing.assert_allclose(seen[14:], features[labels].mean(axis=(0, 1)), rtol=1e-4)


def along_gap(values, gap, where_h, where_v):
    """Sides at which both pixels are below the gap."""
    return (np.maximum(values[:, 1:], values[:, :-1])[where_h] < gap).sum() + (
        np.maximum(values[1:], values[:-1])[where_v] < gap
    ).sum()


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_choice_against_brute_force(diversity):
    rng = np.random.default_rng(1)
    regions = RegionGraph(np.arange(36).reshape(6, 6))
    candidates = rng.random((60, 36)) < 0.5
    objectness = rng.random(60).astype(np.float32)
    chosen = []
    while len(chosen) < 12:
        best, value = None, -np.inf
        for i in range(60):
            overlap = max((iou(candidates[i], candidates[j]) for j in chosen), default=0.0)
            worth = float(objectness[i]) - diversity * overlap
            if i not in chosen and overlap <= 0.45 and worth > value + 1e-7:
                best, value = i, worth
        if best is None:
            break
        chosen.append(best)
    indices, left = choose_diverse(candidates, objectness, regions, 0.45, diversity, 12)
    assert indices.tolist() == chosen
    assert (np.diff(left) <= 1e-6).all()


@pytest.mark.parametrize(("name", "maps"), [("hed", 2), ("contours", 0)])
def test_models_fit_the_cues(name, maps):
    model = objectness_model(name)
    assert len(model.projections) == len(model.offsets) == maps
    assert model.weights[0].shape[0] == len(model.mean) == len(model.deviation)
    cues = np.random.default_rng(0).normal(size=(5, len(model.mean))).astype(np.float32)
    objectness = model(cues)
    assert objectness.shape == (5,)
    assert ((objectness > 0) & (objectness < 1)).all()


# ------------------------------------------------------------------------------ config and cache


def config(path, **options):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.PROPOSALS.PATH = str(path)
    for key, value in options.items():
        setattr(cfg.PROPOSALS.BUILTIN, key, value)
    return cfg


def settings_of(cfg):
    build_proposal_source(cfg)
    return json.loads((Path(cfg.PROPOSALS.PATH) / "settings.json").read_text())


def test_without_contours_settings_are_those_of_older_caches(tmp_path):
    settings = settings_of(config(tmp_path / "cache"))
    assert set(settings) == {
        *("version", "scales", "sigma", "min_size", "color_spaces"),
        *("longest_edge", "nms_threshold", "max_proposals"),
    }


def test_hed_weights_are_part_of_the_settings(tmp_path):
    for name, content in (("a.h5", b"1"), ("b.h5", b"2"), ("c.h5", b"1")):
        (tmp_path / name).write_bytes(content)

    def make(name):
        return config(tmp_path / "cache", CONTOURS="hed", HED_WEIGHTS=str(tmp_path / name))

    settings = settings_of(make("a.h5"))
    assert settings["contours"] == "hed"
    assert str(tmp_path) not in json.dumps(settings)  # the same weights may lie elsewhere
    assert settings_of(make("c.h5")) == settings
    build_proposal_source(make("b.h5"))  # nothing is lost: there are no proposals yet
    assert settings_of(make("c.h5")) == settings
    (tmp_path / "cache" / "an_image-0123.json.gz").write_bytes(b"")
    with pytest.raises(UserError, match="other settings"):
        build_proposal_source(make("b.h5"))


def test_missing_weights_are_one_sentence(tmp_path):
    cfg = config(tmp_path / "cache", CONTOURS="hed", HED_WEIGHTS=str(tmp_path / "absent.h5"))
    with pytest.raises(UserError, match=r"absent\.h5.*HED_WEIGHTS"):
        build_proposal_source(cfg)


def test_unknown_contours(tmp_path):
    with pytest.raises(UserError, match="CONTOURS is 'canny': choose one of none, hed, files"):
        build_proposal_source(config(tmp_path / "cache", CONTOURS="canny"))


def test_contours_of_files(tmp_path, drawn):
    image, masks, contours = drawn
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / "maps").mkdir()
    small = cv2.resize(contours_of(image), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    Image.fromarray((small * 255).astype(np.uint8)).save(tmp_path / "maps" / "photo.png")
    cfg = config(tmp_path / "cache", CONTOURS="files", CONTOUR_PATH=str(tmp_path / "maps"))
    record = {"file_name": str(tmp_path / "photo.png"), "image_id": 1, "height": 120, "width": 160}
    found = build_proposal_source(cfg).get(record)
    assert max(iou(masks[4], mask) for mask in found.decode()) > 0.8

    # Contours of another round in the same place, and the same cache.
    write_contours(tmp_path / "maps" / "photo.png", np.zeros((60, 80)))
    assert len(build_proposal_source(cfg).get(record)) < len(found)

    (tmp_path / "maps" / "photo.png").unlink()
    with pytest.raises(UserError, match=r"photo\.png cannot be read.*CONTOUR_PATH"):
        build_proposal_source(cfg).get(record)
