import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from wsis_d2.visualization import (
    draw_heatmap,
    draw_instances,
    draw_label_map,
    draw_peak_responses,
    draw_peaks,
    instance_colors,
    panel_scale,
    resize_image,
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def _disk(y, x, radius, shape=(40, 60)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


MASKS = np.stack([_disk(15, 15, 8), _disk(25, 40, 10)])


def _draw_all(image, scale):
    labels = MASKS[0] + 3 * MASKS[1] + 255 * _disk(5, 55, 4)
    names = ["ring", "star", "comb"]
    return {
        "heatmap": draw_heatmap(image, MASKS[0].astype(float), scale=scale),
        "peaks": draw_peaks(
            image,
            np.array([[15, 15], [25, 40]]),
            [0, 2],
            [3.0, 41.5],
            class_names=names,
            scale=scale,
        ),
        "responses": draw_peak_responses(image, MASKS.astype(float), scale=scale),
        "instances": draw_instances(image, MASKS, [0, 2], [0.9, 0.8], names, scale=scale),
        "labels": draw_label_map(image, labels, names, scale=scale),
    }


@pytest.mark.parametrize(
    ("scale", "shape"), [(1.0, (40, 60, 3)), (3.0, (120, 180, 3)), (0.5, (20, 30, 3))]
)
def test_drawings_are_new_deterministic_rgb_pictures_of_the_scaled_size(image, scale, shape):
    before = image.copy()
    plain = resize_image(image, scale)
    again = _draw_all(image, scale)
    for name, drawing in _draw_all(image, scale).items():
        assert drawing.shape == shape, name
        assert drawing.dtype == np.uint8, name
        assert (drawing == again[name]).all(), name
        assert (drawing != plain).any(), name
    assert (image == before).all()


def test_empty_input_leaves_the_picture(image):
    assert (draw_peaks(image, np.zeros((0, 2)), []) == image).all()
    assert (draw_instances(image, np.zeros((0, 40, 60), bool), [], [], ["a"]) == image).all()
    assert (draw_instances(image, np.zeros((1, 40, 60), bool), [0], [1.0], ["a"]) == image).all()
    assert (draw_label_map(image, np.zeros((40, 60), int), ["a"]) == image).all()
    assert (draw_heatmap(image, np.zeros((10, 15))) == image).all()
    darkened = draw_peak_responses(image, np.zeros((0, 10, 15)))
    assert darkened.mean() < 0.5 * image.mean()
    assert (darkened == draw_peak_responses(image, np.zeros((2, 10, 15)))).all()


def test_resize_and_panel_scale():
    assert panel_scale(128, 128) == 2
    assert panel_scale(100, 300) == 3
    assert panel_scale(480, 640) == 256 / 480
    assert panel_scale(250, 400) == 1
    image = np.full((30, 20, 3), 7, np.uint8)
    for scale in (1, 2, 0.4):
        resized = resize_image(image, scale)
        assert resized is not image
        assert resized.shape == (30 * scale, 20 * scale, 3)
        assert (resized == 7).all()
    with pytest.raises(ValueError, match="positive"):
        resize_image(image, 0)
    with pytest.raises(ValueError, match="uint8"):
        resize_image(image.astype(float), 1)


@given(st.integers(0, 10_000))
def test_colors_depend_on_the_index_alone_and_neighbors_differ(index):
    colors = instance_colors(range(index, index + 5)).astype(int)
    assert (colors[2] == instance_colors([index + 2])[0]).all()
    distances = np.abs(colors[:, None] - colors[None]).sum(2)[~np.eye(5, dtype=bool)]
    assert distances.min() > 60


def test_heatmap_leaves_zeros_and_shows_the_maximum_hottest(image):
    heat = np.zeros((40, 60))
    heat[10:20, 10:20] = 1
    heat[30:35, 40:50] = 8
    drawing = draw_heatmap(image, heat, alpha=1.0, cmap="gray")
    assert (drawing[heat == 0] == image[heat == 0]).all()
    assert (drawing[heat == 8] == 255).all()
    # An eighth of the maximum: half as opaque as from a quarter on, and nearly black.
    expected = image[heat == 1] / 2 + 255 / 8 / 2
    assert np.abs(drawing[heat == 1] - expected).max() <= 1.5
    # Relative to a larger maximum, the same values are colder.
    colder = draw_heatmap(image, heat, alpha=1.0, cmap="gray", maximum=16)
    assert np.abs(colder[heat == 8].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("bad", [-np.ones((4, 4)), np.full((4, 4), np.nan), np.ones((1, 4, 4))])
def test_heatmap_refuses_what_is_no_response_map(image, bad):
    with pytest.raises(ValueError):
        draw_heatmap(image, bad)


def test_peaks_lie_where_they_are(image):
    colors = instance_colors([0, 1])
    for scale in (1, 4):
        drawing = draw_peaks(image, np.array([[12, 9], [30, 50]]), [0, 1], scale=scale)
        changed = (drawing != resize_image(image, scale)).any(axis=2)
        for (y, x), color in zip([(12, 9), (30, 50)], colors):
            # The center of pixel y in a picture enlarged 4 times is between its pixels 4y+1, 4y+2.
            top, left = y * scale + scale // 2, x * scale + scale // 2
            assert (drawing[top, left] == color).all()
            near = np.zeros_like(changed)
            near[max(top - 20, 0) : top + 20, max(left - 20, 0) : left + 20] = True
            rows, columns = np.nonzero(changed & near)
            assert abs(rows.mean() - ((y + 0.5) * scale - 0.5)) < 0.3
            assert abs(columns.mean() - ((x + 0.5) * scale - 0.5)) < 0.3
        assert changed.mean() < 0.2


def test_peak_and_its_response_share_a_color():
    black = np.zeros((64, 64, 3), np.uint8)
    response = np.zeros((2, 64, 64))
    response[0, 10:15, 10:15] = 4
    response[1, 40:45, 40:45] = 1e-6
    drawing = draw_peak_responses(black, response)
    peaks = draw_peaks(black, np.array([[12, 12], [42, 42]]), [3, 3], color_ids=range(2))
    assert (drawing[12, 12] == peaks[12, 12]).all()
    assert (drawing[42, 42] == peaks[42, 42]).all()
    assert (drawing[12, 12] != drawing[42, 42]).any()
    assert not drawing[response.sum(0) == 0].any()


def test_peak_responses_are_shown_by_their_square_root():
    black = np.zeros((100, 100, 3), np.uint8)
    response = np.full((1, 100, 100), 0.25)
    response[0, :10] = 1.0
    drawing = draw_peak_responses(black, response).astype(float)
    full = instance_colors([0])[0]
    assert np.abs(drawing[0, 0] - full).max() <= 1
    assert np.abs(drawing[99, 99] - full / 2).max() <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]), st.integers(0, 4))
def test_pixels_outside_of_masks_are_unchanged_and_inside_tinted(seed, scale, count):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    masks = rng.random((count, 16, 24)) < 0.2
    drawing = draw_instances(image, masks, [0] * count, scale=scale)
    plain = resize_image(image, scale)
    # Enlarging by nearest neighbors repeats pixels.
    enlarged = masks.repeat(scale, 1).repeat(scale, 2)
    outside = ~enlarged.any(axis=0)
    assert (drawing[outside] == plain[outside]).all()
    colors = instance_colors(range(count)).astype(int)
    for index in range(count):
        alone = enlarged[index] & (enlarged.sum(axis=0) == 1)
        before = np.abs(plain[alone] - colors[index])
        assert (np.abs(drawing[alone] - colors[index]) <= before).all()


def test_outline_is_opaque_and_fill_is_translucent(image):
    drawing = draw_instances(image, MASKS[:1], [0], alpha=0.5)
    color = instance_colors([0])[0]
    assert (drawing[15, 7] == color).all()  # leftmost pixel of the disk
    middle = (image[15, 15].astype(float) + color) / 2
    assert np.abs(drawing[15, 15] - middle).max() <= 1


def test_rles_and_arrays_draw_the_same(image):
    compressed = [mask_utils.encode(np.asfortranarray(m.astype(np.uint8))) for m in MASKS]
    as_text = [{**rle, "counts": rle["counts"].decode()} for rle in compressed]
    expected = draw_instances(image, MASKS, [0, 1])
    assert (draw_instances(image, compressed, [0, 1]) == expected).all()
    assert (draw_instances(image, as_text, [0, 1]) == expected).all()
    rows = [[1, 1], [0, 1]]
    counts = {"size": [2, 2], "counts": [0, 1, 1, 2]}  # column by column, zeros first
    small = np.full((2, 2, 3), 100, np.uint8)
    drawn = draw_instances(small, [counts], [0])
    assert (drawn == draw_instances(small, np.array([rows], bool), [0])).all()
    assert (drawn[1, 0] == 100).all()


def test_small_instances_stay_visible_on_large_ones():
    gray = np.full((40, 60, 3), 100, np.uint8)
    large, small = np.ones((40, 60), bool), _disk(20, 30, 5)
    for masks, index in (([large, small], 1), ([small, large], 0)):
        drawing = draw_instances(gray, np.stack(masks), [0, 0])
        assert (drawing[20, 25] == instance_colors([index])[0]).all()


def test_labels_are_written_only_where_names_are_known():
    gray = np.full((128, 128, 3), 100, np.uint8)
    mask = np.zeros((1, 128, 128), bool)
    mask[0, 60:70, 60:70] = True
    bare = draw_instances(gray, mask, [1], [0.5])
    named = draw_instances(gray, mask, [1], None, ["ring", "star"])
    scored = draw_instances(gray, mask, [1], [0.5], ["ring", "star"])
    written = [(d != gray).any(axis=2)[~mask[0]].sum() for d in (bare, named, scored)]
    assert written[0] == 0
    assert 0 < written[1] < written[2]
    # The text stands beside a small instance, not on it.
    assert (named[mask[0]] == bare[mask[0]]).all()


def test_label_map_colors_classes_and_hatches_the_unknown():
    gray = np.full((40, 60, 3), 200, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[:10, :10] = 1
    labels[20:30, 20:30] = 4
    labels[:, 50:] = 255
    drawing = draw_label_map(gray, labels, alpha=1.0)
    colors = instance_colors([0, 3])
    assert (drawing[labels == 0] == 200).all()
    assert (drawing[labels == 1] == colors[0]).all()
    assert (drawing[labels == 4] == colors[1]).all()
    unknown = drawing[labels == 255]
    assert set(np.unique(unknown)) == {164, 200}
    assert (draw_label_map(gray, labels, ["a", "b", "c", "d"], alpha=1.0) != drawing).any()


def test_lengths_must_agree(image):
    with pytest.raises(ValueError, match="2 class_ids"):
        draw_instances(image, MASKS, [0])
    with pytest.raises(ValueError, match="1 scores"):
        draw_peaks(image, np.array([[1, 1]]), [0], [1.0, 2.0])
