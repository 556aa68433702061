"""Workers of a loader whose process is killed."""

import multiprocessing
import os
import time
from contextlib import suppress

import pytest
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from wsis_d2.data.loader_workers import prepare_workers

RECORDS = [{"image_id": i, "height": 10, "width": 20} for i in range(8)]


def _pids(_record):
    """The processes that last as long as the worker: it, and the server that has forked it."""
    return {"pids": [os.getpid(), os.getppid()], "height": 10, "width": 20}


def _loader(kind):
    if kind == "test":
        return build_detection_test_loader(dataset=RECORDS, mapper=_pids, num_workers=1)
    return build_detection_train_loader(
        dataset=RECORDS,
        mapper=_pids,
        total_batch_size=2,
        aspect_ratio_grouping=kind == "grouped",
        num_workers=1,
    )


def _load(kind, connection):
    loader = prepare_workers(_loader(kind))
    batches = iter(loader)
    connection.send((os.getpid(), next(batches)[0]["pids"]))
    time.sleep(600)


def _lives(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize(("method", "kind"), [("fork", "test"), ("forkserver", "grouped")])
def test_they_end_and_so_does_what_has_forked_them(method, kind):
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_load, args=(kind, there))
    process.start()
    parent, pids = here.recv()
    assert parent == process.pid
    assert (parent in pids) == (method == "fork")
    process.kill()
    process.join()
    end = time.monotonic() + 60
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["train", "grouped"])
def test_the_workers_own_beginning_is_kept(kind):
    loader = _loader(kind)
    workers = loader.dataset if kind == "grouped" else loader
    begun = []
    workers.worker_init_fn = begun.append
    assert prepare_workers(loader) is loader
    workers.worker_init_fn(3)
    assert begun == [3]


def test_other_loaders_are_left_alone():
    batches = [[1], [2]]
    assert prepare_workers(batches) is batches
