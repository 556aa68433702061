"""Masks of several sources become one set: against plain arrays and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsis_d2.labeling import Candidates, MaskCombiner, class_overlap, relative_ranks
from wsis_d2.labeling.agreement import (
    agreement_features,
    agreement_score,
    cluster_masks,
    find_parts,
    vote_mask,
)
from wsis_d2.labeling.score_calibration import ScoreCalibration
from wsis_d2.structures import decode_mask, encode_mask

SIZE = (12, 16)
CLASSES = ["cat", "dog"]


def box(top, left, bottom, right):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@st.composite
def boxes(draw):
    top, left = draw(st.integers(0, 10)), draw(st.integers(0, 14))
    return box(top, left, draw(st.integers(top + 1, 12)), draw(st.integers(left + 1, 16)))


@st.composite
def images(draw):
    """Bitmaps, class ids, sources and ranks of an image's masks, and the number of sources."""
    num_sources = draw(st.integers(1, 4))
    # Few values: ties and identical masks are what goes wrong.
    pool = draw(st.lists(boxes(), min_size=1, max_size=4))
    row = st.tuples(
        st.sampled_from(range(len(pool))),
        st.integers(0, 1),
        st.integers(0, num_sources - 1),
        st.sampled_from([0.2, 0.5, 0.9]),
    )
    rows = draw(st.lists(row, max_size=7))
    return [(pool[i], *rest) for i, *rest in rows], num_sources


def candidates_of(rows):
    masks, class_ids, sources, ranks = zip(*rows) if rows else ((), (), (), ())
    return Candidates.of([encode_mask(mask) for mask in masks], class_ids, sources, ranks)


def bitmaps_of(candidates):
    return [decode_mask(mask) for mask in candidates.masks]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def combiner(num_sources, **options):
    return MaskCombiner([f"source {i}" for i in range(num_sources)], CLASSES, **options)


def outcome(combined):
    """What the combined masks are, their order among equal scores left aside."""
    return sorted((c.score, c.class_id, c.mask["counts"]) for c in combined)


def test_ranks_are_shares_of_lower_scores():
    scores = np.array([0.1, 0.4, 0.4, 0.4, 0.9])
    ranks = relative_ranks(scores, scores)
    want = [
        np.mean([s < x for s in scores]) + np.mean([s == x for s in scores]) / 2 for x in scores
    ]
    np.testing.assert_allclose(ranks, want)
    assert relative_ranks(np.array([7.0]), np.array([7.0])).tolist() == [0.5]
    assert relative_ranks(np.array([]), np.array([])).tolist() == []


@given(images(), st.sampled_from([0.3, 0.5, 1.0]))
def test_features_against_every_pair(image, iou_threshold):
    rows, num_sources = image
    candidates = candidates_of(rows)
    features = agreement_features(candidates, class_overlap(candidates), num_sources, iou_threshold)
    bitmaps = bitmaps_of(candidates)
    for i, mask in enumerate(bitmaps):
        best = [
            max(
                (
                    iou(mask, other)
                    for j, other in enumerate(bitmaps)
                    if candidates.sources[j] == source
                    and candidates.class_ids[j] == candidates.class_ids[i]
                ),
                default=0.0,
            )
            for source in range(num_sources)
            if source != candidates.sources[i]
        ]
        want = [candidates.ranks[i], 0.0, 0.0, 0.0]
        if best:
            want[1:] = [np.mean(best), max(best), np.mean([b >= iou_threshold for b in best])]
        np.testing.assert_allclose(features[i], want, atol=1e-12)


def test_the_rule_in_numbers():
    features = np.array([[0.6, 0.0, 0.0, 0.0], [0.6, 0.5, 1.0, 0.5]])
    np.testing.assert_allclose(agreement_score(features[:1], 1), [0.3])
    np.testing.assert_allclose(agreement_score(features, 3), [0.15, 0.4])


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=5, max_size=5), st.data()
)
def test_clusters_against_a_loop(values, data):
    overlap = np.array(values)
    overlap = np.maximum(overlap, overlap.T)
    np.fill_diagonal(overlap, 1.0)
    scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.8]), min_size=5, max_size=5)))
    left, want = sorted(range(5), key=lambda i: (-scores[i], i)), []
    while left:
        leader = left[0]
        members = [leader] + [i for i in left[1:] if overlap[leader, i] >= 0.5]
        want.append(members)
        left = [i for i in left if i not in members]
    assert [cluster.tolist() for cluster in cluster_masks(overlap, scores, 0.5)] == want


@given(st.lists(st.tuples(boxes(), st.floats(0.1, 1)), min_size=1, max_size=4))
def test_a_vote_against_every_pixel(rows):
    rows = sorted(rows, key=lambda row: -row[1])
    weights = np.array([weight for _, weight in rows])
    votes = sum(weight * mask for mask, weight in rows)
    want = votes > weights.sum() / 2
    sure = np.abs(votes - weights.sum() / 2) > 1e-9  # the rest is a matter of rounding
    found = decode_mask(vote_mask([encode_mask(mask) for mask, _ in rows], weights))
    if want.any():
        np.testing.assert_array_equal(found[sure], want[sure])
    elif sure.all():
        np.testing.assert_array_equal(found, rows[0][0])


def test_three_votes_mend_the_best_mask():
    rows = [
        (box(0, 0, 9, 9), 0, 0, 0.9),
        (box(0, 0, 9, 8), 0, 1, 0.5),
        (box(0, 0, 9, 8), 0, 2, 0.5),
    ]
    # The rank decides which of two equally agreed masks is the best.
    best, vote = (
        combiner(3, vote=vote, calibration=ScoreCalibration(0.0, {"rank": 1.0})).combine(
            candidates_of(rows)
        )
        for vote in (False, True)
    )
    assert [decode_mask(c.mask).sum() for c in best] == [81]
    assert [decode_mask(c.mask).sum() for c in vote] == [72]
    assert best[0].score == vote[0].score


@given(images(), st.sampled_from([0.6, 0.8, 1.0]), st.integers(1, 3))
def test_parts_against_every_pair(image, containment, min_parts):
    candidates = candidates_of(image[0])
    bitmaps = bitmaps_of(candidates)
    want = np.zeros(len(bitmaps), dtype=bool)
    for w, whole in enumerate(bitmaps):
        parts = [
            i
            for i, part in enumerate(bitmaps)
            if candidates.class_ids[i] == candidates.class_ids[w]
            and part.sum() < whole.sum()
            and (part & whole).sum() / part.sum() >= containment
            and iou(part, whole) < 0.5
        ]
        if len(parts) >= min_parts:
            want[parts] = True
    found = find_parts(candidates, class_overlap(candidates), 0.5, containment, min_parts)
    np.testing.assert_array_equal(found, want)


@given(images(), st.booleans(), st.booleans(), st.randoms())
def test_the_order_of_sources_and_masks_does_not_matter(image, vote, mine_wholes, random):
    rows, num_sources = image
    numbers = random.sample(range(num_sources), num_sources)
    shuffled = [(mask, label, numbers[source], rank) for mask, label, source, rank in rows]
    random.shuffle(shuffled)
    combine = combiner(num_sources, vote=vote, mine_wholes=mine_wholes).combine
    assert outcome(combine(candidates_of(rows))) == outcome(combine(candidates_of(shuffled)))


@given(images(), st.integers(2, 4), st.booleans())
def test_identical_sources_give_the_same_masks_with_higher_scores(image, copies, vote):
    rows = [(mask, label, 0, rank) for mask, label, _, rank in image[0]]
    repeated = [(m, label, source, rank) for m, label, _, rank in rows for source in range(copies)]
    alone = combiner(1, vote=vote).combine(candidates_of(rows))
    agreed = combiner(copies, vote=vote).combine(candidates_of(repeated))

    def masks(combined):
        return sorted((c.class_id, c.mask["counts"]) for c in combined)

    assert masks(alone) == masks(agreed)
    assert all(a.score < b.score for a, b in zip(alone, agreed, strict=True))


@given(images())
def test_objects_are_apart_and_every_mask_is_one_or_overlaps_one(image):
    rows, num_sources = image
    combined = combiner(num_sources).combine(candidates_of(rows))
    kept = [(decode_mask(c.mask), c.class_id) for c in combined]
    for i, (mask, label) in enumerate(kept):
        assert all(iou(mask, m) < 0.5 for m, other in kept[:i] if other == label)
    for mask, label, *_ in rows:
        assert any(iou(mask, m) >= 0.5 for m, other in kept if other == label)
    scores = [c.score for c in combined]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score < 1 for score in scores)


def test_a_mask_that_another_source_has_too_beats_a_lone_one():
    rows = [
        (box(0, 0, 6, 6), 0, 0, 0.3),
        (box(0, 0, 6, 5), 0, 1, 0.3),
        (box(7, 8, 12, 16), 0, 0, 0.9),
    ]
    combined = combiner(2).combine(candidates_of(rows))
    assert [decode_mask(c.mask)[0, 0] for c in combined] == [True, False]


def test_low_scores_are_dropped():
    rows = [(box(0, 0, 6, 6), 0, 0, 0.9), (box(7, 8, 12, 16), 0, 0, 0.3)]
    assert [c.score for c in combiner(1, min_score=0.2).combine(candidates_of(rows))] == [0.45]


def test_parts_are_dropped_for_the_whole():
    whole, head, body = box(0, 0, 8, 12), box(0, 0, 8, 4), box(0, 6, 8, 11)
    rows = [(whole, 0, 0, 0.1), (head, 0, 1, 0.9), (body, 0, 1, 0.9), (head, 1, 1, 0.9)]
    (first, second) = combiner(2, mine_wholes=True).combine(candidates_of(rows))
    found = {c.class_id: decode_mask(c.mask) for c in (first, second)}
    np.testing.assert_array_equal(found[0], whole)
    np.testing.assert_array_equal(found[1], head)
    assert len(combiner(2).combine(candidates_of(rows))) == 4


def test_a_missing_class_gets_its_best_prediction():
    combine = combiner(2)
    combined = combine.combine(candidates_of([(box(0, 0, 6, 6), 0, 0, 0.9)]))
    predictions = candidates_of(
        [
            (box(0, 0, 3, 3), 0, 2, 0.9),  # there is one of its class
            (box(7, 0, 9, 3), 1, 2, 0.4),
            (box(7, 8, 12, 16), 1, 2, 0.6),
        ]
    )
    same = combine.complete(combined, predictions, [0])
    assert outcome(same) == outcome(combined)
    added = combine.complete(combined, predictions, [0, 1])
    assert outcome(added[:-1]) == outcome(combined)
    np.testing.assert_array_equal(decode_mask(added[-1].mask), box(7, 8, 12, 16))
    assert added[-1].class_id == 1
    assert added[-1].score == pytest.approx(0.6 / 3)


def test_nothing_gives_nothing():
    nothing = candidates_of([])
    assert combiner(2, vote=True, mine_wholes=True).combine(nothing) == []
    assert combiner(2).complete([], nothing, [0, 1]) == []
