import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsis_d2.labeling import detect_instances


def flood(owners, start):
    """The 4-connected pixels that share the owner of ``start``."""
    height, width = owners.shape
    found, border = {start}, [start]
    while border:
        y, x = border.pop()
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= q[0] < height and 0 <= q[1] < width
            if inside and q not in found and owners[q] == owners[start]:
                found.add(q)
                border.append(q)
    return frozenset(found)


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, (5, 7), elements=st.integers(0, 3)), st.sampled_from([0.0, 0.1]))
def test_pieces_are_the_connected_pixels_of_one_owner(owners, min_area):
    scores = np.random.default_rng(0).random(owners.shape, dtype=np.float32)
    class_ids = torch.tensor([7, 3, 7])
    expected = {
        (pieces, int(class_ids[owners[min(pieces)] - 1]), max(scores[p] for p in pieces))
        for pieces in {flood(owners, p) for p in np.ndindex(owners.shape) if owners[p]}
        if len(pieces) >= min_area * owners.size
    }
    found = detect_instances(torch.tensor(owners), torch.tensor(scores), class_ids, min_area)
    assert found.image_size == owners.shape
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    pixels = [frozenset(map(tuple, np.argwhere(m).tolist())) for m in found.pred_masks.numpy()]
    assert expected == set(
        zip(pixels, found.pred_classes.tolist(), found.scores.numpy(), strict=True)
    )


def test_nothing_found():
    found = detect_instances(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 6), torch.ones(1))
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 4, 6)
    assert found.pred_boxes.tensor.shape == (0, 4)
