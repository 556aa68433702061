"""The published weights of IRNet: our names for theirs, and back.

The authors' code (https://github.com/jiwoon-ahn/irn) writes ``res50_cam.pth``, which is a
:class:`~wsis_d2.modeling.CAMClassifier`, and ``res50_irn.pth``, which is an
:class:`~wsis_d2.modeling.IRNet`, both on the ResNet-50 of ``configs/Base-CAM.yaml``. Its modules
hold the same layers under several names, and so do its files.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from ..files import check_writable, write_bytes
from .checkpoint import DESCRIPTION_KEY, WSISCheckpointer

FORMATS = ("wsis_d2", "irn")

_BLOCKS_PER_STAGE = (3, 4, 6, 3)
_NORM = ("weight", "bias", "running_mean", "running_var")
_LEVELS = ("stem", "res2", "res3", "res4", "res5")

#: Counters of the published batch normalisation, which is always frozen: nothing reads them.
_COUNTER = "num_batches_tracked"
#: Index tables of the published losses, which only the net in training has.
_TABLES = ("path_indices", "disp_target")


#: Modules of the published nets and the other names under which they hold them.
_ALIASES = {
    "CAMClassifier": {
        "resnet50.conv1.": ("stage1.0.", "backbone.0.0."),
        "resnet50.bn1.": ("stage1.1.", "backbone.0.1."),
        "resnet50.layer1.": ("stage1.4.", "backbone.0.4."),
        "resnet50.layer2.": ("stage2.0.", "backbone.1.0."),
        "resnet50.layer3.": ("stage3.0.", "backbone.2.0."),
        "resnet50.layer4.": ("stage4.0.", "backbone.3.0."),
        "classifier.": ("newly_added.0.",),
    },
    "IRNet": {
        "resnet50.conv1.": ("stage1.0.", "backbone.0.0."),
        "resnet50.bn1.": ("stage1.1.", "backbone.0.1."),
        "resnet50.layer1.": ("stage2.0.", "backbone.1.0."),
        "resnet50.layer2.": ("stage3.0.", "backbone.2.0."),
        "resnet50.layer3.": ("stage4.0.", "backbone.3.0."),
        "resnet50.layer4.": ("stage5.0.", "backbone.4.0."),
        "mean_shift.": ("fc_dp7.4.", "dp_layers.6.4."),
        **{f"fc_edge{i + 1}.": (f"edge_layers.{i}.",) for i in range(6)},
        **{f"fc_dp{i + 1}.": (f"dp_layers.{i}.",) for i in range(7)},
    },
}


def convert_checkpoint(
    input_file: str, output_file: str, to: str, classes: Sequence[str] = ()
) -> str:
    """Convert a file of IRNet's published layout to a checkpoint of ours, or back.

    Args:
        input_file: of the other layout than ``to``. Which of the two nets it holds is found out.
        output_file: written atomically.
        to: "wsis_d2" or "irn".
        classes: class names in the order of the classifier's outputs, for the checkpoint's
            description; empty: any dataset with that many classes may use it.

    Returns:
        The meta-architecture of the net: "CAMClassifier" or "IRNet".

    Raises:
        UserError: the input is missing, damaged or none of these nets; it has weights too many or
            too few; the number of classes is another; the output cannot be written.
    """
    if to not in FORMATS:
        raise UserError(f"the layout {to!r} is unknown: choose 'wsis_d2' or 'irn'")
    check_writable(output_file)
    weights = _read(input_file)
    kind = meta_architecture(weights, input_file)
    if ("resnet50.conv1.weight" in weights) == (to == "irn"):
        raise UserError(f"'{input_file}' has the layout {to!r} already: choose the other one")
    try:
        converted = from_published(weights) if to == "wsis_d2" else to_published(weights)
    except ValueError as error:
        raise UserError(
            f"'{input_file}' looks like a {kind}, but {error}: it is of another network"
        ) from error
    num_outputs = len(weights["classifier.weight"]) if "classifier.weight" in weights else None
    if classes and num_outputs not in (None, len(classes)):
        raise UserError(
            f"'{input_file}' has {num_outputs} classes, but {len(classes)} are named: name them "
            "all, in the order of the classifier's outputs"
        )
    if to == "wsis_d2":
        description = {"meta_architecture": kind, "classes": list(classes)}
        converted = {"model": converted, DESCRIPTION_KEY: description}
    buffer = io.BytesIO()
    torch.save(converted, buffer)
    write_bytes(output_file, buffer.getvalue())
    return kind


def _read(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise UserError(f"checkpoint '{path}' does not exist: check the name of the input")
    return WSISCheckpointer(torch.nn.Module())._load_file(path)["model"]


def meta_architecture(weights: Mapping[str, Tensor], source: str = "the file") -> str:
    """Which net a file of either layout holds: "CAMClassifier" or "IRNet".

    Raises:
        UserError: None of them; the message names ``source``.
    """
    if "classifier.weight" in weights:
        return "CAMClassifier"
    if "fc_edge6.weight" in weights or "boundary_head.predictor.weight" in weights:
        return "IRNet"
    raise UserError(
        f"'{source}' is neither a CAM classifier nor an IRNet: it has no 'classifier.weight', "
        "'fc_edge6.weight' or 'boundary_head.predictor.weight'"
    )


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published layout by our names.

    Raises:
        ValueError: one is missing, or there is one that the published nets do not have.
    """
    kind = meta_architecture(weights)
    names = _names(kind)
    _check(names, weights, {alias for name in names for alias in _aliases(kind, name)})
    return {ours: weights[theirs] for theirs, ours in names.items()}


def to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ours by all names that the published nets have for them.

    Raises:
        ValueError: one is missing, or there is one that the published nets do not have, or the
            backbone is slimmer or wider.
    """
    kind = meta_architecture(weights)
    names = _names(kind)
    _check(names.values(), weights, set(names.values()))
    for name, channels in (("stem.conv1", 64), ("res2.0.conv3", 256)):
        found = len(weights[f"backbone.{name}.weight"])
        if found != channels:
            raise ValueError(f"its backbone has {found} channels in {name} instead of {channels}")
    published = {}
    for theirs, ours in names.items():
        for alias in _aliases(kind, theirs):
            published[alias] = weights[ours]
            if alias.endswith("running_var"):
                published[alias.replace("running_var", _COUNTER)] = torch.tensor(0)
    return published


def _check(expected: Iterable[str], found: Mapping[str, Tensor], known: set[str]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"lacks {len(missing)} weights, the first of them '{missing[0]}'")
    unknown = [
        name
        for name in found
        if name not in known and not name.endswith(_COUNTER) and not name.startswith(_TABLES)
    ]
    if unknown:
        raise ValueError(f"has {len(unknown)} weights too many, the first of them '{unknown[0]}'")


def _names(kind: str) -> dict[str, str]:
    """Published name -> our name, each weight once."""
    heads = {"CAMClassifier": _classifier_names, "IRNet": _relation_names}[kind]
    return {**dict(_backbone_names()), **dict(heads())}


def _aliases(kind: str, name: str) -> list[str]:
    """All published names of a weight, ``name`` first."""
    (module,) = (module for module in _ALIASES[kind] if name.startswith(module))
    others = [alias + name.removeprefix(module) for alias in _ALIASES[kind][module]]
    return [name, *others]


def _backbone_names() -> Iterator[tuple[str, str]]:
    yield from _conv_and_norm("resnet50.conv1", "resnet50.bn1", "backbone.stem.conv1")
    for stage, num_blocks in enumerate(_BLOCKS_PER_STAGE, start=1):
        for block in range(num_blocks):
            theirs, ours = f"resnet50.layer{stage}.{block}", f"backbone.res{stage + 1}.{block}"
            for i in (1, 2, 3):
                yield from _conv_and_norm(f"{theirs}.conv{i}", f"{theirs}.bn{i}", f"{ours}.conv{i}")
            if block == 0:
                shortcut = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
                yield from _conv_and_norm(*shortcut, f"{ours}.shortcut")


def _classifier_names() -> Iterator[tuple[str, str]]:
    yield "classifier.weight", "classifier.weight"


def _relation_names() -> Iterator[tuple[str, str]]:
    for i, level in enumerate(_LEVELS, start=1):
        for theirs, ours in ((f"fc_edge{i}", "boundary_head"), (f"fc_dp{i}", "displacement_head")):
            yield from _conv_and_group_norm(theirs, f"{ours}.levels.{level}")
    yield "fc_edge6.weight", "boundary_head.predictor.weight"
    yield "fc_edge6.bias", "boundary_head.predictor.bias"
    yield from _conv_and_group_norm("fc_dp6", "displacement_head.merge_coarse")
    yield from _conv_and_group_norm("fc_dp7", "displacement_head.merge")
    yield "fc_dp7.3.weight", "displacement_head.predictor.weight"
    yield "mean_shift.running_mean", "mean_displacement"


def _conv_and_norm(conv: str, norm: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{conv}.weight", f"{ours}.weight"
    for name in _NORM:
        yield f"{norm}.{name}", f"{ours}.norm.{name}"


def _conv_and_group_norm(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.0.weight", f"{ours}.weight"
    yield f"{theirs}.1.weight", f"{ours}.norm.weight"
    yield f"{theirs}.1.bias", f"{ours}.norm.bias"
