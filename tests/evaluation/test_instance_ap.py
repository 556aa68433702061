"""VOC AP and ABO against hand-computed values and a naive implementation on decoded masks."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from wsis_d2.errors import UserError
from wsis_d2.evaluation import (
    evaluate_instance_masks,
    flatten_instance_metrics,
    format_instance_metrics,
)
from wsis_d2.files import to_json_value

THRESHOLDS = (0.25, 0.5, 0.7, 0.75)


def rle(mask):
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))


def box(x0, x1, y0=0, y1=10, size=(10, 100)):
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def instance(mask, image_id=1, category_id=1, score=None):
    entry = {"image_id": image_id, "category_id": category_id, "segmentation": rle(mask)}
    return entry if score is None else {**entry, "score": score}


def test_hand_computed():
    truths = [instance(box(0, 10)), instance(box(20, 30)), instance(box(40, 50), image_id=2)]
    detections = [
        instance(box(0, 10), score=0.9),  # IoU 1: true
        instance(box(60, 70), score=0.8),  # false
        instance(box(20, 26), score=0.7),  # IoU 0.6: true at 0.5, false at 0.7
        instance(box(1, 10), score=0.6),  # IoU 0.9 with a truth that is taken: false
        instance(box(40, 50), image_id=1, score=0.5),  # its truth is in another image: false
    ]
    result = evaluate_instance_masks(detections, truths)
    # Precision 1, 1/2, 2/3, ...: the two found of three truths have precisions 1 and 2/3.
    assert result["AP50"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert result["AP25"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert result["AP70"] == result["AP75"] == pytest.approx(100 / 3)
    assert result["ABO"] == pytest.approx(100 * (1 + 0.6 + 0) / 3)
    assert result["num_objects"] == 3


def test_envelope_lifts_precision_to_its_later_maximum():
    truths = [instance(box(0, 10)), instance(box(20, 30)), instance(box(40, 50))]
    detections = [
        instance(box(60, 70), score=0.9),  # false: precision 0
        instance(box(0, 10), score=0.8),  # 1/2, lifted to 3/4
        instance(box(20, 30), score=0.7),  # 2/3, lifted to 3/4
        instance(box(40, 50), score=0.6),  # 3/4
    ]
    assert evaluate_instance_masks(detections, truths)["AP50"] == pytest.approx(75)


def test_a_detection_whose_best_truth_is_taken_takes_no_other():
    truths = [instance(box(0, 10)), instance(box(5, 15))]
    detections = [instance(box(0, 10), score=0.9), instance(box(1, 11), score=0.8)]
    # The second overlaps the first truth by 9/11 and the other by 6/14 >= 0.25: still false.
    assert evaluate_instance_masks(detections, truths)["AP25"] == pytest.approx(50)


def test_threshold_is_inclusive():
    result = evaluate_instance_masks([instance(box(0, 5), score=1.0)], [instance(box(0, 10))])
    assert (result["AP50"], result["AP70"]) == (100, 0)


def test_classes_are_averaged_where_they_have_truths():
    truths = [instance(box(0, 10)), instance(box(0, 10), category_id=7)]
    detections = [instance(box(0, 10), score=0.9), instance(box(0, 10), category_id=9, score=0.9)]
    result = evaluate_instance_masks(detections, truths)
    assert result["AP50"] == result["ABO"] == 50
    assert list(result["per_class"]) == [1, 7, 9]
    assert result["per_class"][7]["AP50"] == result["per_class"][7]["ABO"] == 0
    assert math.isnan(result["per_class"][9]["AP50"])


def test_sizes_and_counts_by_hand():
    small, large = box(0, 2), box(10, 60)  # 20 and 500 pixels
    truths = [instance(small), instance(large), instance(small, image_id=2)]
    detections = [
        instance(large, score=0.9),  # ignored among the small
        instance(box(70, 72), score=0.8),  # unmatched and small: false there, ignored elsewhere
        instance(small, score=0.7),
        instance(box(10, 12), image_id=2, score=0.6),  # unmatched, small, in the image of one
    ]
    result = evaluate_instance_masks(detections, truths, area_bounds=(100, 400))
    assert result["by_size"]["small"]["AP50"] == pytest.approx(100 * (1 / 2) / 2)
    assert result["by_size"]["small"]["ABO"] == pytest.approx(50)
    assert math.isnan(result["by_size"]["medium"]["AP50"])
    assert result["by_size"]["large"]["AP50"] == result["by_size"]["large"]["ABO"] == 100
    assert result["by_count"]["1"]["AP50"] == 0
    assert result["by_count"]["2-4"]["AP50"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert math.isnan(result["by_count"]["5+"]["AP50"])
    counts = {name: group["num_objects"] for name, group in result["by_count"].items()}
    assert counts == {"1": 1, "2-4": 2, "5+": 0}


# ---- a naive implementation: loops over decoded masks, AP from its definition


def naive_iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 0.0


def naive_class_metrics(detections, truths, threshold, truth_in, detection_in):
    """AP and ABO of one class from (image, mask[, score]) tuples and two predicates."""
    total = sum(truth_in(t) for t in truths)
    if total == 0:
        return None
    taken, points, tp, fp = set(), [], 0, 0
    for image, mask, _ in sorted(detections, key=lambda d: -d[2]):
        best, best_iou = None, -1.0
        for i, truth in enumerate(truths):
            if truth[0] == image and naive_iou(mask, truth[1]) > best_iou:
                best, best_iou = i, naive_iou(mask, truth[1])
        if best is not None and best_iou >= threshold and best not in taken:
            taken.add(best)
            if not truth_in(truths[best]):
                continue
            tp += 1
        elif detection_in((image, mask)):
            fp += 1
        else:
            continue
        points.append((tp, tp / (tp + fp)))
    # At every recall level k / total: the highest precision at this recall or beyond.
    levels = [max((p for n, p in points if n >= k), default=0.0) for k in range(1, total + 1)]
    overlaps = [
        max((naive_iou(d[1], t[1]) for d in detections if d[0] == t[0]), default=0.0)
        for t in truths
        if truth_in(t)
    ]
    return sum(levels) / total, sum(overlaps) / total


def naive_metrics(detections, truths, threshold, truth_in, detection_in):
    results = [
        naive_class_metrics(
            [d[1:] for d in detections if d[0] == c],
            [t[1:] for t in truths if t[0] == c],
            threshold,
            truth_in,
            detection_in,
        )
        for c in {t[0] for t in truths}
    ]
    results = [r for r in results if r is not None]
    return 100 * np.mean(results, axis=0) if results else [math.nan, math.nan]


@st.composite
def scenes(draw, distinct_scores=False):
    """(class, image, mask, score) tuples of detections and truths; blocks that often overlap."""
    side = 6
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)

    def masks(n):
        for _ in range(n):
            mask = np.zeros((side, side), dtype=bool)
            y, x = rng.integers(0, side - 1, 2)
            h, w = rng.integers(1, side, 2)
            mask[y : y + h, x : x + w] = True
            mask &= rng.random(mask.shape) < 0.95
            yield int(rng.integers(1, 3)), int(rng.integers(1, 4)), mask

    truths = list(masks(draw(st.integers(0, 8))))
    found = list(masks(draw(st.integers(0, 8))))
    found += [truths[i] for i in rng.permutation(len(truths))[: draw(st.integers(0, 4))]]
    scores = np.round(rng.random(len(found)), 1)
    if distinct_scores:
        scores = rng.permutation(len(found)) / 16
    return [(*f, float(s)) for f, s in zip(found, scores)], truths


def as_coco(scene):
    detections, truths = scene
    return (
        [instance(m, image, c, score=s) for c, image, m, s in detections],
        [instance(m, image, c) for c, image, m in truths],
    )


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_agrees_with_the_naive_implementation(scene):
    bounds = (6, 12)
    result = evaluate_instance_masks(*as_coco(scene), THRESHOLDS, bounds)
    objects = {image: sum(t[1] == image for t in scene[1]) for image in range(1, 4)}

    def always(_):
        return True

    def sized(low, high):
        return lambda item: low <= item[1].sum() < high

    def counted(low, high):
        return lambda item: low <= objects[item[0]] < high

    groups = {
        "all": (result, always),
        "small": (result["by_size"]["small"], sized(0, bounds[0])),
        "medium": (result["by_size"]["medium"], sized(*bounds)),
        "large": (result["by_size"]["large"], sized(bounds[1], math.inf)),
        "1": (result["by_count"]["1"], counted(1, 2)),
        "2-4": (result["by_count"]["2-4"], counted(2, 5)),
        "5+": (result["by_count"]["5+"], counted(5, math.inf)),
    }
    for name, (got, inside) in groups.items():
        for threshold in THRESHOLDS:
            ap, abo = naive_metrics(*scene, threshold, inside, inside)
            want = pytest.approx(ap, abs=1e-9, nan_ok=True)
            assert got[f"AP{round(100 * threshold)}"] == want, (name, threshold)
            assert got["ABO"] == pytest.approx(abo, abs=1e-9, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(scenes(distinct_scores=True), st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(scene, random):
    detections, truths = as_coco(scene)
    before = evaluate_instance_masks(detections, truths)
    random.shuffle(detections)
    # Truths are not shuffled: of two truths of equal IoU the first is taken, as by argmax.
    after = evaluate_instance_masks(detections, truths)
    assert to_json_value(before) == to_json_value(after)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_ap_falls_with_the_threshold_and_stays_in_range(scene):
    result = evaluate_instance_masks(*as_coco(scene), (0.1, 0.3, 0.5, 0.7, 0.9))
    for group in [result, *result["per_class"].values(), *result["by_size"].values()]:
        aps = [group[key] for key in ("AP10", "AP30", "AP50", "AP70", "AP90")]
        if group["num_objects"]:
            assert 0 <= aps[-1] <= 100 + 1e-9
            assert 0 <= group["ABO"] <= 100
            assert all(a >= b - 1e-9 for a, b in zip(aps, aps[1:]))
        else:
            assert all(map(math.isnan, aps))
            assert math.isnan(group["ABO"])


def test_perfect_detections_give_100():
    truths = [
        instance(box(10 * i, 10 * i + 8), image_id=i % 3, category_id=1 + i % 2) for i in range(9)
    ]
    detections = [{**t, "score": 0.1 * i} for i, t in enumerate(truths)]
    result = evaluate_instance_masks(detections, truths)
    keys = ("AP25", "AP50", "AP70", "AP75", "ABO")
    assert [result[key] for key in keys] == pytest.approx([100] * 5)
    assert [result["by_count"]["2-4"][key] for key in keys] == pytest.approx([100] * 5)


def test_many_masks_in_one_image():
    # pycocotools has lists of at most 255 masks in some of its functions.
    truths = [
        instance(box(x, x + 1, y, y + 1, size=(20, 20))) for x in range(20) for y in range(20)
    ]
    detections = [{**t, "score": 0.5} for t in truths]
    assert evaluate_instance_masks(detections, truths)["AP75"] == pytest.approx(100)


def test_nothing_at_all_is_nan_and_valid_json():
    result = evaluate_instance_masks([], [])
    assert math.isnan(result["AP50"])
    assert math.isnan(result["ABO"])
    text = json.dumps(to_json_value(result), allow_nan=False)
    assert json.loads(text)["by_size"]["small"]["AP50"] is None


def test_truths_without_detections_give_0():
    result = evaluate_instance_masks([], [instance(box(0, 10))])
    assert result["AP25"] == result["ABO"] == 0


def test_names_of_thresholds():
    result = evaluate_instance_masks([], [], iou_thresholds=(0.29, 0.57, 0.505))
    assert {"AP29", "AP57", "AP50.5"} <= set(result)


def test_all_segmentation_formats_mean_the_same():
    mask = box(3, 9, 2, 8, size=(12, 16))
    compressed = rle(mask)
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False, append=False))
    counts = np.diff(runs, prepend=0, append=mask.size).tolist()
    segmentations = [
        {"size": [12, 16], "counts": compressed["counts"].decode()},
        {"size": [12, 16], "counts": counts},
        [[3, 2, 9, 2, 9, 8, 3, 8]],
    ]
    truth = {"image_id": 4, "category_id": 1, "segmentation": compressed}
    for segmentation in segmentations:
        detection = {"image_id": 4, "category_id": 1, "segmentation": segmentation}
        result = evaluate_instance_masks([detection], [truth], image_sizes={4: (12, 16)})
        assert result["ABO"] == 100


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [10, 100], "counts": [5, 5]}, "do not add up to its size 10 x 100"),
        ({"size": [10, 100], "counts": "04"}, "do not add up"),
        ({"size": [10, 100], "counts": "\x01"}, "not readable"),
        ([[0, 0, 5, 0, 5, 5]], "height and width of its image are not known"),
        (rle(np.zeros((5, 5))), "5 x 5 pixels where others have 10 x 100"),
    ],
)
def test_bad_masks_are_named(segmentation, message):
    detection = {"image_id": 31, "category_id": 1, "segmentation": segmentation, "score": 0.5}
    with pytest.raises(UserError, match=message) as error:
        evaluate_instance_masks([detection], [instance(box(0, 5), image_id=31)])
    assert "image 31" in str(error.value)


def test_bad_arguments():
    with pytest.raises(ValueError, match="thresholds"):
        evaluate_instance_masks([], [], iou_thresholds=(0, 0.5))
    with pytest.raises(ValueError, match="area_bounds"):
        evaluate_instance_masks([], [], area_bounds=(9, 4))
    with pytest.raises(UserError, match="finite"):
        evaluate_instance_masks([instance(box(0, 5), score=math.nan)], [])


def test_table_and_flat_results():
    truths = [instance(box(0, 10)), instance(box(20, 30), image_id=2)]
    result = evaluate_instance_masks([instance(box(0, 10), score=0.9)], truths)
    table = format_instance_metrics(result, {1: "bird"})
    assert "| class " in table
    assert "bird" in table
    assert "50.0" in table
    assert "-" in table
    flat = flatten_instance_metrics(result, {1: "bird"})
    assert list(flat)[:5] == ["AP25", "AP50", "AP70", "AP75", "ABO"]
    assert flat["AP50-small"] == flat["AP50-1 object"] == flat["AP50-bird"] == 50
    assert math.isnan(flat["ABO-5+ objects"])
