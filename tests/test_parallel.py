"""The same work on many images: one process or several, failures collected in one sentence."""

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsis_d2.errors import UserError
from wsis_d2.parallel import (
    Shard,
    available_cpus,
    deal_images,
    for_each_image,
    one_thread_on_cpu,
)

pytestmark = pytest.mark.usefixtures("warm_workers")


def _write_name(task) -> str:
    folder, name = task
    if name.endswith("7"):
        return f"{name} is bad"
    (folder / name).write_text(str(os.getpid()))
    return ""


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_failures_are_collected_after_the_others_are_done(tmp_path, num_workers):
    tasks = [(tmp_path, f"image{i:02d}") for i in range(32)]
    with pytest.raises(UserError) as error:
        for_each_image(_write_name, tasks, "names", num_workers)
    assert "3 of 32 images have no names, the others are done" in str(error.value)
    assert "image07 is bad; image17 is bad; image27 is bad" in str(error.value)
    assert len(list(tmp_path.iterdir())) == 29
    here = {path.read_text() for path in tmp_path.iterdir()} == {str(os.getpid())}
    assert here == (num_workers < 2)


def _die(task) -> str:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_said():
    with pytest.raises(UserError, match="a process that made seeds was ended by a signal"):
        for_each_image(_die, range(32), "seeds", 2)


def test_few_images_start_no_process_and_none_is_no_error(tmp_path):
    for_each_image(_write_name, [(tmp_path, "a")], "names", 8)
    assert (tmp_path / "a").read_text() == str(os.getpid())
    for_each_image(_write_name, [], "names", 8)


def test_many_failures_are_cut_after_ten():
    with pytest.raises(UserError, match=r"12 of 12 .*; \.\.\.$") as error:
        for_each_image(str, [f"image{i:02d}" for i in range(12)], "names", 0)
    assert str(error.value).count("image") == 11  # "images have" and ten names


def test_there_is_a_cpu():
    assert 1 <= available_cpus() <= os.cpu_count()


@given(
    st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), max_size=40),
    st.integers(1, 7),
)
def test_shares_hold_all_images_and_as_many_pixels_but_for_one_image(sizes, num_shares):
    dataset = [{"image_id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    shares = deal_images(dataset, num_shares)
    assert sorted(d["image_id"] for share in shares for d in share) == list(range(len(sizes)))
    assert len(shares) == num_shares
    counts = [len(share) for share in shares]
    assert max(counts) - min(counts) <= 1
    pixels = [sum(d["height"] * d["width"] for d in share) for share in shares]
    assert max(pixels) - min(pixels) <= max((h * w for h, w in sizes), default=0)


def test_a_shards_images_do_not_depend_on_who_asks():
    dataset = [{"image_id": i, "height": 10 - i, "width": 10} for i in range(7)]
    shards = [Shard.parse(f"{i}/3") for i in range(3)]
    assert [[d["image_id"] for d in s.select(dataset)] for s in shards] == [
        [0, 3, 6],
        [1, 4],
        [2, 5],
    ]
    assert [str(shard) for shard in shards] == ["0/3", "1/3", "2/3"]


@pytest.mark.parametrize("text", ["", "3", "3/3", "0/0", "-1/3", "1/3/4", "a/b", "1 / 3"])
def test_what_is_no_shard_is_said(text):
    with pytest.raises(UserError, match=r"give I/N with I from 0 to N - 1"):
        Shard.parse(text)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("cuda", 2), ("cuda:1", 2)])
def test_only_work_on_the_cpu_is_held_to_one_thread(device, expected):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread_on_cpu(device):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
