"""Files are whole or as they were, and what cannot be written is said in a sentence."""

import json
import os

import pytest

from wsis_d2 import files
from wsis_d2.errors import UserError
from wsis_d2.files import (
    check_writable,
    claim_folder,
    folder_settings,
    json_list,
    label_file,
    new_folder,
    open_atomically,
    write_bytes,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "out.json"
    write_json(path, {"a": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["out.json"]


def test_a_file_that_is_written_piece_by_piece_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out"

    def fail():
        with open_atomically(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(path.parent) == []
    with open_atomically(path) as file:
        file.write(b"a")
        assert not path.exists()
        file.write(b"b")
    assert path.read_bytes() == b"ab"


def test_files_get_the_usual_permissions(tmp_path):
    write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "usual").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_numbers_that_json_lacks_become_null(tmp_path):
    write_json(tmp_path / "out.json", {1: (float("nan"), 0.5), "b": [float("inf"), None, "x"]})
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "1": [None, 0.5],
        "b": [None, None, "x"],
    }


def test_what_cannot_be_written_is_said(tmp_path):
    check_writable(tmp_path / "made" / "out.json")
    assert os.listdir(tmp_path / "made") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not writable"):
        check_writable(tmp_path / "file" / "out.json")
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path / "made")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "out.json", {})


def test_label_file_mirrors_the_image_folder():
    assert label_file("cams", "photos/dogs/1.jpg", "photos", ".npz") == "cams/dogs/1.npz"
    assert label_file("cams", "photos/a.b.jpg", "photos", ".png") == "cams/a.b.png"
    assert label_file("cams", "elsewhere/1.jpg", "photos", ".npz") == "cams/1.npz"


def claim(folder, settings, replace=False):
    claim_folder(folder, settings, sorted(folder.glob("*.txt")), replace=replace, key="A.PATH")


def test_a_claimed_folder_keeps_files_of_its_settings(tmp_path):
    folder = tmp_path / "new"
    claim(folder, {"scales": (1, 2)})
    assert folder_settings(folder) == {"scales": [1, 2]}
    (folder / "a.txt").touch()
    claim(folder, {"scales": (1, 2)})
    assert (folder / "a.txt").exists()


def test_files_of_other_settings_are_refused_or_replaced(tmp_path):
    claim(tmp_path, {"a": 1})
    claim(tmp_path, {"a": 2})  # there is none yet
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"other settings .*choose another A\.PATH"):
        claim(tmp_path, {"a": 3})
    assert (tmp_path / "a.txt").exists()
    assert folder_settings(tmp_path) == {"a": 2}
    claim(tmp_path, {"a": 3}, replace=True)
    assert not (tmp_path / "a.txt").exists()
    assert folder_settings(tmp_path) == {"a": 3}


@pytest.mark.parametrize("replace", [False, True])
def test_files_of_nobody_knows_what_are_left_alone(tmp_path, replace):
    (tmp_path / "a.txt").touch()
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"'a\.txt' but no readable settings\.json"):
        claim(tmp_path, {"a": 1}, replace)
    assert (tmp_path / "a.txt").exists()


def test_a_complete_folder_may_be_read_only(tmp_path, monkeypatch):
    claim(tmp_path, {"a": 1})

    def refuse(*_):
        raise UserError("not writable")

    monkeypatch.setattr(files, "check_writable_folder", refuse)
    claim(tmp_path, {"a": 1})
    with pytest.raises(UserError, match="not writable"):
        claim(tmp_path, {"a": 2})


def test_another_process_may_claim_the_folder_at_the_same_time(tmp_path):
    def listing():
        write_json(tmp_path / "settings.json", {"a": 1})
        yield tmp_path / "a.txt"

    claim_folder(tmp_path, {"a": 1}, listing(), replace=False, key="A.PATH")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "out"

    def fail():
        with new_folder(path) as folder:
            write_bytes(os.path.join(folder, "a"), b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path / "new") == []

    path.mkdir()  # an empty one is as good as none
    with new_folder(path) as folder:
        write_bytes(os.path.join(folder, "deep", "a"), b"whole")
        assert os.listdir(path) == []
    assert (path / "deep" / "a").read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["out"]
    assert path.stat().st_mode == (path / "deep").stat().st_mode

    with pytest.raises(UserError, match="out' is there already"), new_folder(path):
        pass
    with pytest.raises(UserError, match="is not writable"), new_folder(path / "deep" / "a" / "b"):
        pass

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    full_disk = pytest.raises(UserError, match="folder .*more' cannot be written: No space left")
    with full_disk, new_folder(tmp_path / "more"):
        pass
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("items", [[], [1], [{"a": float("nan")}, "b", [None]]])
def test_a_list_in_pieces_is_the_json_of_the_list(items):
    assert "".join(json_list(iter(items))) == files.to_json(items)
