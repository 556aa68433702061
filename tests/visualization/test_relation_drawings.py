import numpy as np
import pytest

from wsis_d2.visualization import (
    displacement_maximum,
    draw_boundary,
    draw_clusters,
    draw_displacement,
    draw_features,
    draw_instance_scores,
    instance_colors,
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def _pinwheel(height=48, width=64):
    """Every cell points to the middle of the map."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    return np.stack([(height - 1) / 2 - rows, (width - 1) / 2 - columns])


def _draw_all(image, scale):
    rng = np.random.default_rng(1)
    maps = rng.random((4, 12, 16))
    return {
        "boundary": draw_boundary(image, maps[0], scale=scale),
        "displacement": draw_displacement(image, maps[:2] - 0.5, scale=scale),
        "clusters": draw_clusters(
            image, maps[0] > 0.5, rng.integers(0, 12, (2, 12, 16)), scale=scale
        ),
        "scores": draw_instance_scores(image, maps, threshold=0.5, scale=scale),
        "features": draw_features(image, maps, scale=scale),
    }


@pytest.mark.parametrize(
    ("scale", "shape"), [(1.0, (48, 64, 3)), (3.0, (144, 192, 3)), (0.5, (24, 32, 3))]
)
def test_drawings_are_new_deterministic_rgb_pictures_of_the_scaled_size(image, scale, shape):
    before = image.copy()
    again = _draw_all(image, scale)
    for name, drawing in _draw_all(image, scale).items():
        assert drawing.shape == shape, name
        assert drawing.dtype == np.uint8, name
        assert (drawing == again[name]).all(), name
        assert len(np.unique(drawing.reshape(-1, 3), axis=0)) > 2, name
    assert (image == before).all()


def test_without_anything_to_show_the_darkened_picture_is_left(image):
    dark = draw_boundary(image, np.zeros((12, 16)))
    assert dark.mean() == pytest.approx(0.3 * image.mean(), rel=0.02)
    assert (dark[..., 0] == dark[..., 2]).all()
    assert (draw_instance_scores(image, np.zeros((0, 12, 16))) == dark).all()
    assert (draw_instance_scores(image, np.zeros((0, 12, 16)), maximum=1.0) == dark).all()
    assert (draw_instance_scores(image, np.zeros((3, 12, 16)), threshold=0.0) == dark).all()


def test_boundaries_shine_where_they_are(image):
    boundary = np.zeros((48, 64))
    boundary[10] = 0.5
    boundary[20] = 1.0
    dark = draw_boundary(image, np.zeros((48, 64))).astype(int)
    drawing = draw_boundary(image, boundary).astype(int)
    assert (drawing[boundary == 0] == dark[boundary == 0]).all()
    assert len(np.unique(drawing[20], axis=0)) == 1
    assert np.abs(drawing[10] - (dark[10] + drawing[20]) / 2).max() <= 1
    assert (draw_boundary(image, boundary, maximum=0.5)[10] == drawing[20]).all()


def test_hue_is_the_direction_and_saturation_the_length(image):
    drawing = draw_displacement(image, _pinwheel(), maximum=20.0).astype(int)
    up, down, left, right = drawing[34, 31], drawing[13, 31], drawing[23, 42], drawing[23, 21]
    # Baker et al.: red to the right, cyan to the left, yellow-green down, violet up.
    assert right[0] == 255
    assert right[1:].max() < 150
    assert left[0] < 150
    assert left[1:].min() > 200
    assert down[2] < 150 < down[1]
    assert up[1] < 150 < up[2]
    # White in the middle, and along a ray the hue stays while the saturation grows.
    assert drawing[23:25, 31:33].min() > 235
    ray = drawing[23, 31:12:-1]
    saturation = (ray.max(1) - ray.min(1)) / ray.max(1)
    assert (np.diff(saturation) > -0.01).all()
    assert saturation[-1] > 0.9
    # Beyond the maximum nothing changes any more.
    assert (drawing[23, 0] == drawing[23, 5]).all()


def test_the_wheel_is_a_key_to_the_colors(image):
    displacement = np.zeros((2, 48, 64))
    displacement[1] = 4.0  # to the right everywhere ...
    displacement[:, 35:, :13] = 0.0  # ... but in this corner, where the wheel goes
    drawing = draw_displacement(image, displacement, maximum=6.0)
    wheel = drawing[-13:, :13]
    assert (wheel[6, 10] == drawing[5, 40]).all()  # two thirds of the radius, to the right
    assert (wheel[6, 6] == 255).all()
    assert len({tuple(wheel[p]) for p in ((6, 10), (6, 2), (2, 6), (10, 6))}) == 4


def test_without_displacement_there_is_nothing_but_the_wheel(image):
    drawing = draw_displacement(image, np.zeros((2, 48, 64)), maximum=6.0)
    rows, columns = np.nonzero((drawing != 255).any(axis=2))
    assert np.ptp(rows) == np.ptp(columns) == 12
    assert (draw_displacement(image, np.zeros((2, 48, 64))) == drawing).all()


@pytest.mark.parametrize("shape", [(3, 3), (4, 90), (5, 5)])
def test_small_pictures_have_a_wheel_too(shape):
    drawing = draw_displacement(np.zeros((*shape, 3), np.uint8), np.zeros((2, 2, 2)))
    assert (drawing != 255).any()


def test_displacement_maximum_leaves_outliers_out(image):
    displacement = np.zeros((2, 100, 100))
    displacement[0, :, :50] = 3.0
    displacement[1, 0, :50] = 400.0
    assert displacement_maximum(displacement) == pytest.approx(3.0)
    default = draw_displacement(image, displacement)
    assert (default == draw_displacement(image, displacement, maximum=3.0)).all()
    assert (default != draw_displacement(image, displacement, maximum=400.0)).any()


def test_colors_of_clusters_depend_on_their_number_alone(image):
    clusters = np.zeros((12, 16), int)
    clusters[:, 8:] = 5
    drawing = draw_clusters(image, clusters, alpha=1.0)
    assert (drawing[:, :32] == instance_colors([0])[0]).all()
    assert (drawing[:, 32:] == instance_colors([5])[0]).all()


def test_every_centroid_is_marked_once(image):
    clusters = np.zeros((12, 16), int)
    centroids = np.zeros((2, 12, 16), int)
    centroids[:] = np.array([3, 4])[:, None, None]
    centroids[:, 6:] = np.array([9, 12])[:, None, None]
    plain = draw_clusters(image, clusters, scale=4.0)
    marked = draw_clusters(image, clusters, centroids, scale=4.0)
    changed = (marked != plain).any(axis=2)
    for y, x in ((3, 4), (9, 12)):
        # A cell is 16 x 16 pixels of the result; its center lies between two of them.
        near = np.zeros_like(changed)
        near[y * 16 : y * 16 + 16, x * 16 : x * 16 + 16] = True
        rows, columns = np.nonzero(changed & near)
        assert abs(rows.mean() - (y * 16 + 7.5)) < 0.6
        assert abs(columns.mean() - (x * 16 + 7.5)) < 0.6
        assert (marked[y * 16 + 8, x * 16 + 8] == 255).all()
        changed &= ~near
    assert not changed.any()


def test_the_highest_score_gives_the_color(image):
    black = np.zeros_like(image)
    scores = np.zeros((3, 48, 64))
    scores[0, :, :40] = 0.5
    scores[2, :, 30:] = 1.0
    colors = instance_colors([7, 8, 9]).astype(int)
    drawing = draw_instance_scores(black, scores, color_ids=[7, 8, 9]).astype(int)
    assert np.abs(drawing[:, :30] - colors[0] / 2).max() <= 1
    assert (drawing[:, 30:] == colors[2]).all()
    # Half as bright for twice the maximum.
    dimmer = draw_instance_scores(black, scores, color_ids=[7, 8, 9], maximum=2.0)
    assert np.abs(dimmer[:, 30:] - colors[2] / 2).max() <= 1


def test_outlines_are_where_a_score_passes_the_background(image):
    black = np.zeros_like(image)
    scores = np.zeros((2, 48, 64))
    scores[0, 10:30, 10:30] = 0.4
    scores[1, 10:30, 30:50] = 0.2
    plain = draw_instance_scores(black, scores, maximum=1.0)
    outlined = draw_instance_scores(black, scores, maximum=1.0, threshold=0.3)
    changed = (outlined != plain).any(axis=2)
    expected = np.zeros_like(changed)
    expected[10:30, 10:30] = True
    expected[11:29, 11:29] = False
    assert (changed == expected).all()
    assert (outlined[changed] == instance_colors([0])[0]).all()


def test_features_of_a_kind_have_one_color(image):
    rng = np.random.default_rng(2)
    kinds = np.repeat(np.arange(4), 4)[None].repeat(12, 0)
    vectors = rng.normal(size=(4, 10))
    features = vectors[kinds].transpose(2, 0, 1)
    drawing = draw_features(np.zeros((12, 16, 3), np.uint8), features)
    colors = drawing[0, ::4].astype(int)
    assert (drawing == drawing[:1, ::4].repeat(4, 1)).all()
    distances = np.abs(colors[:, None] - colors[None]).sum(2)[~np.eye(4, dtype=bool)]
    assert distances.min() > 60


def test_features_are_seen_along_their_largest_variance():
    # One strong and one weak component, hidden in a rotated basis.
    rows, columns = np.mgrid[-1:1:20j, -1:1:20j]
    strong, weak = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    features = strong[:, None, None] * 10 * rows + weak[:, None, None] * columns
    drawing = draw_features(np.zeros((20, 20, 3), np.uint8), features).astype(int)
    assert np.ptp(drawing[..., 0], axis=1).max() <= 1  # red: rows alone
    assert (np.diff(drawing[:, 0, 0])[1:-1] > 5).all()
    assert np.ptp(drawing[..., 1], axis=0).max() <= 1  # green: columns alone
    assert np.ptp(drawing[..., 2]) == 0  # there is no third
    # Not even one.
    flat = draw_features(np.zeros((20, 20, 3), np.uint8), np.full((2, 20, 20), 3.0))
    assert len(np.unique(flat)) == 1


@pytest.mark.parametrize(
    ("draw", "bad"),
    [
        (draw_boundary, np.zeros((1, 4, 4))),
        (draw_boundary, np.full((4, 4), -0.5)),
        (draw_displacement, np.zeros((3, 4, 4))),
        (draw_displacement, np.full((2, 4, 4), np.nan)),
        (draw_instance_scores, np.zeros((4, 4))),
        (draw_features, np.zeros((4, 4))),
        (draw_features, np.full((2, 4, 4), np.inf)),
    ],
)
def test_wrong_maps_are_refused(image, draw, bad):
    with pytest.raises(ValueError, match="expected"):
        draw(image, bad)


def test_lengths_must_agree(image):
    with pytest.raises(ValueError, match="2 color_ids"):
        draw_instance_scores(image, np.ones((2, 4, 4)), color_ids=[1])
    with pytest.raises(ValueError, match="centroids"):
        draw_clusters(image, np.zeros((4, 4), int), np.zeros((2, 8, 8), int))
