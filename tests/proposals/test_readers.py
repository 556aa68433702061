import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from scipy.io import savemat

from wsis_d2.errors import UserError
from wsis_d2.proposals import CocoResultsProposals, MatProposals, SegmentAnythingProposals

SIZE = (6, 8)
MASKS = np.random.default_rng(0).random((3, *SIZE)) < 0.5
SCORES = np.array([0.2, 0.9, 0.5])
BEST_FIRST = MASKS[[1, 2, 0]]

garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([[6, 8], "0`1", 1, {"size": [6, 8], "counts": [48]}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "image_id",
                    "segmentation",
                    "score",
                    "predicted_iou",
                    "annotations",
                    "size",
                    "counts",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def rle(mask):
    encoded = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def runs(mask):
    """Uncompressed RLE, counted pixel by pixel in column-major order."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def cells(arrays):
    cell = np.empty((len(arrays), 1), dtype=object)
    for i, array in enumerate(arrays):
        cell[i, 0] = array
    return cell


def check(proposals, masks=BEST_FIRST, objectness=(0.9, 0.5, 0.2)):
    np.testing.assert_array_equal(proposals.decode(), masks)
    np.testing.assert_allclose(proposals.objectness, objectness, rtol=1e-6)


# ---------------------------------------------------------------------------------- MCG and COB


def test_mat_superpixels_and_labels(tmp_path):
    superpixels = np.arange(48).reshape(SIZE) // 6 + 1  # 8 superpixels of 6 pixels, ids from 1
    members = [[1, 2], [8], [3, 5, 7]]
    savemat(
        tmp_path / "a.mat",
        {
            "superpixels": superpixels.astype(np.uint16),
            "labels": cells([np.array([m], dtype=np.uint16) for m in members]),
            "scores": SCORES[:, None],
        },
    )
    expected = np.array(
        [[[pixel in members[i] for pixel in row] for row in superpixels] for i in (1, 2, 0)]
    )
    check(MatProposals(tmp_path).read("x/a.jpg", 1, SIZE), expected)


@pytest.mark.parametrize("key", ["masks", "maskmat"])
@pytest.mark.parametrize("layout", ["hwn", "nhw", "cells"])
def test_mat_masks(tmp_path, key, layout):
    masks = MASKS.astype(np.uint8)
    stored = {"hwn": masks.transpose(1, 2, 0), "nhw": masks, "cells": cells(list(masks))}[layout]
    savemat(tmp_path / "a.mat", {key: stored, "scores": SCORES})
    check(MatProposals(tmp_path).read("a.jpg", 1, SIZE))


def test_mat_without_scores_ranks_by_order(tmp_path):
    savemat(tmp_path / "a.mat", {"masks": MASKS.transpose(1, 2, 0).astype(np.uint8)})
    check(MatProposals(tmp_path).read("a.jpg", 1, SIZE), MASKS, (1, 2 / 3, 1 / 3))


def test_mat_single_mask_loses_its_last_axis_in_matlab(tmp_path):
    savemat(tmp_path / "a.mat", {"masks": MASKS[0].astype(np.uint8), "scores": 0.7})
    check(MatProposals(tmp_path).read("a.jpg", 1, SIZE), MASKS[:1], (0.7,))


def test_masks_of_another_size_are_resized(tmp_path):
    savemat(
        tmp_path / "a.mat", {"masks": MASKS.transpose(1, 2, 0).astype(np.uint8), "scores": SCORES}
    )
    proposals = MatProposals(tmp_path).read("a.jpg", 1, (12, 16))
    check(proposals, BEST_FIRST.repeat(2, axis=1).repeat(2, axis=2))


def test_file_in_a_subfolder_comes_first(tmp_path):
    for folder, score in ((tmp_path, 0.1), (tmp_path / "cat", 0.8)):
        folder.mkdir(exist_ok=True)
        savemat(folder / "a.mat", {"masks": MASKS[0].astype(np.uint8), "scores": score})
    reader = MatProposals(tmp_path)
    assert reader.read("images/cat/a.jpg", 1, SIZE).objectness[0] == pytest.approx(0.8)
    assert reader.read("images/dog/a.jpg", 1, SIZE).objectness[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"boxes": np.ones((2, 4))}, "boxes"),
        ({"masks": np.ones((6, 8, 2)), "scores": np.ones(3)}, "2 proposals but 3 scores"),
        ({"masks": np.ones((6, 8, 1)), "scores": np.array([np.nan])}, "finite"),
        ({"masks": np.array(["text"])}, "numbers"),
        ({"superpixels": np.ones(SIZE), "labels": cells([np.array([2])])}, "outside 0..1"),
        ({"superpixels": np.full(SIZE, 0.5), "labels": cells([np.array([0])])}, "whole"),
        ({"superpixels": {"a": 1}, "labels": cells([np.array([1])])}, "numbers"),
        ({"superpixels": np.full(SIZE, 1e9), "labels": cells([np.array([1])])}, "no ids"),
        ({"masks": cells([np.ones((2, 2)), np.ones((3, 2))])}, "differ in size"),
    ],
)
def test_mat_with_wrong_content(tmp_path, content, hint):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(UserError, match=hint) as caught:
        MatProposals(tmp_path).read("dir/a.jpg", 1, SIZE)
    assert "a.mat" in str(caught.value)
    assert "dir/a.jpg" in str(caught.value)


@given(st.binary(max_size=300))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mat_garbage(tmp_path, content):
    savemat(tmp_path / "good.mat", {"masks": MASKS.astype(np.uint8), "scores": SCORES})
    header = (tmp_path / "good.mat").read_bytes()[:136]
    for data in (content, header + content):
        (tmp_path / "a.mat").write_bytes(data)
        with pytest.raises(UserError):
            MatProposals(tmp_path).read("a.jpg", 1, SIZE)


# --------------------------------------------------------------------------------- COCO results


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("encode", [rle, runs])
def test_coco_results(tmp_path, encode):
    records = [
        {"image_id": image_id, "category_id": 1, "segmentation": encode(mask), "score": score}
        for image_id in (7, "b")
        for mask, score in zip(MASKS, SCORES)
    ]
    reader = CocoResultsProposals(write(tmp_path / "r.json", records))
    check(reader.read("a.jpg", 7, SIZE))
    check(reader.read("a.jpg", "7", SIZE))
    check(reader.read("b.jpg", "b", SIZE))


def test_coco_results_with_polygons(tmp_path):
    polygons = [[1, 1, 5, 1, 5, 4, 1, 4], [6, 0, 8, 0, 8, 2, 6, 2]]
    records = [{"image_id": 1, "segmentation": polygons, "score": 0.5}]
    reader = CocoResultsProposals(write(tmp_path / "r.json", records))
    expected = np.zeros((1, *SIZE), dtype=bool)
    expected[0, 1:4, 1:5] = True
    expected[0, 0:2, 6:8] = True
    check(reader.read("a.jpg", 1, SIZE), expected, (0.5,))


@pytest.mark.parametrize(
    ("record", "hint"),
    [
        ({"segmentation": rle(MASKS[0])}, "score"),
        ({"score": 0.5}, "segmentation"),
        ({"segmentation": {"size": [6, 8], "counts": [7]}, "score": 0.5}, "add up"),
        ({"segmentation": {"size": [6, 8], "counts": "zzzz"}, "score": 0.5}, "RLE"),
        ({"segmentation": [[0, 0, 1, 1]], "score": 0.5}, "three points"),
        ({"segmentation": [[0, 0, 1e9, 1, 5, 5]], "score": 0.5}, "far outside"),
        ({"segmentation": [], "score": 0.5}, "no segmentation"),
        ({"segmentation": rle(MASKS[0]), "score": float("nan")}, "finite"),
    ],
)
def test_coco_results_with_a_wrong_entry(tmp_path, record, hint):
    reader = CocoResultsProposals(write(tmp_path / "r.json", [{"image_id": 3, **record}]))
    with pytest.raises(UserError, match=hint) as caught:
        reader.read("a.jpg", 3, SIZE)
    assert "r.json" in str(caught.value)
    assert "image_id 3" in str(caught.value)


# ----------------------------------------------------------------------------- segment-anything


@pytest.mark.parametrize("encode", [rle, runs])
@pytest.mark.parametrize("wrap", [list, lambda records: {"image": {}, "annotations": records}])
def test_segment_anything(tmp_path, encode, wrap):
    records = [
        {"segmentation": encode(m), "predicted_iou": s, "stability_score": 0.1, "area": 3}
        for m, s in zip(MASKS, SCORES)
    ]
    write(tmp_path / "a.json", wrap(records))
    check(SegmentAnythingProposals(tmp_path).read("dir/a.jpg", 1, SIZE))


def test_segment_anything_image_without_masks(tmp_path):
    write(tmp_path / "a.json", [])
    assert len(SegmentAnythingProposals(tmp_path).read("a.jpg", 1, SIZE)) == 0


# -------------------------------------------------------------------------------- missing, garbage


@pytest.mark.parametrize(
    "make",
    [
        MatProposals,
        SegmentAnythingProposals,
        lambda folder: CocoResultsProposals(write(folder / "r.json", [])),
    ],
)
def test_missing_proposals_name_the_image(tmp_path, make):
    with pytest.raises(UserError, match="no proposals for image .*photo.jpg"):
        make(tmp_path).read("dir/photo.jpg", 1, SIZE)


@pytest.mark.parametrize("make", [MatProposals, SegmentAnythingProposals, CocoResultsProposals])
def test_missing_source(tmp_path, make):
    with pytest.raises(UserError, match="PROPOSALS.PATH"):
        make(tmp_path / "absent")


@given(garbage)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_json_is_a_user_error(tmp_path, value):
    write(tmp_path / "a.json", value)
    for read in (
        lambda: SegmentAnythingProposals(tmp_path).read("a.jpg", 1, SIZE),
        lambda: CocoResultsProposals(tmp_path / "a.json").read("a.jpg", 1, SIZE),
    ):
        try:
            proposals = read()
        except UserError:
            continue
        assert proposals.decode().shape[1:] == SIZE


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_no_json_at_all(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="a.json"):
        CocoResultsProposals(tmp_path / "a.json")
    with pytest.raises(UserError, match="a.json"):
        SegmentAnythingProposals(tmp_path).read("a.jpg", 1, SIZE)
