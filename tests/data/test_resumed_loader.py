"""A loader that is taken up in the middle, against the same one from its beginning."""

import itertools

import numpy as np
import pytest
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from wsis_d2.data.resumed_loader import batches_from

NUM_IMAGES = 23


def _loader(num_workers=0, grouped=False, batch_size=3, seed=5):
    sizes = np.random.default_rng(0).integers(10, 20, (NUM_IMAGES, 2)).tolist()
    records = [{"image_id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    return build_detection_train_loader(
        dataset=records,
        mapper=dict,
        sampler=TrainingSampler(NUM_IMAGES, seed=seed),
        total_batch_size=batch_size * comm.get_world_size(),
        aspect_ratio_grouping=grouped,
        num_workers=num_workers,
    )


def _first(batches, count):
    return [[x["image_id"] for x in batch] for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_the_rest_is_that_of_a_run_without_interruption(grouped, num_workers):
    whole = _first(iter(_loader(num_workers, grouped)), 40)
    for start in (0, 1, 5, 18):
        rest = _first(batches_from(_loader(num_workers, grouped), start), 40 - start)
        assert rest == whole[start:]


def test_a_run_may_be_interrupted_again_and_again():
    loader = _loader(grouped=True)
    whole = _first(iter(_loader(grouped=True)), 30)
    assert _first(batches_from(loader, 4), 6) == whole[4:10]
    assert _first(batches_from(_loader(grouped=True), 10), 20) == whole[10:]


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_chunks_of_detectron2s_main_branch(chunk, num_workers):
    from wsis_d2.data.resumed_loader import _LoadingOrder

    stream = list(range(4 * chunk * num_workers))
    # Each worker has every n-th chunk; they take turns, image by image.
    chunks = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
    shares = [list(itertools.chain(*chunks[w::num_workers])) for w in range(num_workers)]
    expected = [image for turn in zip(*shares) for image in turn]
    order = _LoadingOrder(num_workers, chunk)
    assert list(order.apply(iter(stream))) == expected
    assert list(order.invert(iter(expected))) == stream


def test_every_process_goes_on_in_its_own_share(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        whole = _first(iter(_loader()), 12)
        assert _first(batches_from(_loader(), 5), 7) == whole[5:]
        shares.append(sum(whole[5:], []))
    # Together they see the stream of one process with twice the batch.
    monkeypatch.undo()
    stream = sum(_first(batches_from(_loader(batch_size=6), 5), 7), [])
    assert shares == [stream[0::2], stream[1::2]]


def test_another_kind_of_loader_begins_again(caplog):
    batches = [[{"image_id": 3}], [{"image_id": 4}]]
    assert list(batches_from(batches, 1)) == batches
    assert "cannot be taken up in the middle" in caplog.text
