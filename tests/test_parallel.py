"""The same work on many images: one process or several, failures collected in one sentence."""

import os

import pytest
import torch

from wsis_d2.errors import UserError
from wsis_d2.parallel import available_cpus, for_each_image, one_thread_on_cpu


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
