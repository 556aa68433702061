"""Which weights made a result: files, folders and addresses."""

import hashlib

import pytest
from detectron2.utils.file_io import PathHandler, PathManager

from wsis_d2.weights.digest import weights_sha256


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_and_an_address_of_it(tmp_path):
    class Host(PathHandler):
        def _get_supported_prefixes(self):
            return ["host-of-the-test://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.rpartition("/")[2])

    (tmp_path / "model.pth").write_bytes(b"weights")
    PathManager.register_handler(Host(), allow_override=True)
    assert weights_sha256(str(tmp_path / "model.pth")) == _sha256(b"weights")
    assert weights_sha256("host-of-the-test://model.pth") == _sha256(b"weights")


def test_a_folder_counts_by_names_and_bytes(tmp_path):
    for name in ("config.json", "sub/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    lines = [f"{name} {_sha256(b'1')}\n" for name in ("config.json", "sub/model.safetensors")]
    assert weights_sha256(str(tmp_path)) == _sha256("".join(lines).encode())
    before = weights_sha256(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"2")
    assert weights_sha256(str(tmp_path)) != before


def test_nothing_there(tmp_path):
    with pytest.raises(OSError):
        weights_sha256(str(tmp_path / "none.pth"))
