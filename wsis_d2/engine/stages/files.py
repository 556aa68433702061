"""The files of a recipe's stage: what it reads from outside, what it has made, and its state."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ... import __version__
from ...data import dataset_dicts, label_dataset_name
from ...data.image_folder import ImageFolder
from ...files import file_sha256, read_json, write_json
from ...labeling.synonyms import synonym_files
from ...proposals import build_proposal_source
from ..supervision import build_supervision
from .combine import calibration_file
from .contours import ContourFolder
from .image_hashes import ImageHashes
from .pseudo_labels import PSEUDO_LABEL_FILE, boxes_file, sem_seg_folder
from .report import REPORT_FILE

#: Written into a stage's folder when it is complete: its state, seconds and metrics.
STAGE_FILE = "stage.json"

#: In a stage's folder: the files that it has made, by their sizes, and a digest of them all.
OUTPUTS_FILE = "outputs.json"

#: Config keys that decide where and how fast a result comes, or what is looked at on the way, and
#: paths of files whose content counts (:func:`outside_inputs`, the images and labels of datasets).
UNDECIDING_KEYS = (
    "OUTPUT_DIR",
    "CUDNN_BENCHMARK",
    "VIS_PERIOD",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.OWN_TEST.IMAGE_ROOT",
    "DATASETS.OWN_TEST.LABELS",
    "DATASETS.OWN_TRAIN.IMAGE_ROOT",
    "DATASETS.OWN_TRAIN.LABELS",
    "DATASETS.PSEUDO.REVIEW",  # its content decides: it is an outside input
    "MODEL.DEVICE",
    "MODEL.PRM.PEAKS_PER_BATCH",
    "PROPOSALS.PROMPTED.PROMPTS_PER_BATCH",
    "PSEUDO_LABELS.STRONGER_LABELS",
    "SEEDS.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)

#: Sections that decide nothing in a stage of a kind: a new threshold of the seeds does not train
#: the classifier again.
UNDECIDING_SECTIONS = {
    # PROPOSALS do: evaluation may snap masks to them (TEST.REFINE_WITH_PROPOSALS).
    "train": "AGREEMENT CAM CONTOURS DENSE_CRF PSEUDO_LABELS REPORT SEEDS".split(),
    "cams": "AGREEMENT CONTOURS DENSE_CRF PROPOSALS PSEUDO_LABELS REPORT SEEDS SOLVER".split(),
    "seeds": "AGREEMENT CONTOURS PROPOSALS PSEUDO_LABELS REPORT SOLVER".split(),
    "contours": "AGREEMENT CAM DENSE_CRF PROPOSALS PSEUDO_LABELS REPORT SEEDS SOLVER".split(),
    "proposals": "AGREEMENT CAM CONTOURS DENSE_CRF PSEUDO_LABELS REPORT SEEDS SOLVER".split(),
    "pseudo_labels": "AGREEMENT CONTOURS REPORT SOLVER".split(),
    "combine": "CAM CONTOURS DENSE_CRF PROPOSALS REPORT SEEDS SOLVER".split(),
    "report": "AGREEMENT CONTOURS".split(),
}


def outside_inputs(cfg: CfgNode, kind: str) -> list[str]:
    """Files and folders that the config names and a stage of this kind may read.

    The images and labels of registered datasets are not among them. The built-in generator's cache
    is not either: its entries are made from the images, with the config's settings.

    Args:
        cfg: the stage's config.
        kind: what the stage runs, "train" for one.

    Returns:
        Paths, without the empty ones; they need not exist.
    """
    pseudo = cfg.DATASETS.PSEUDO
    made_by = {"builtin": "", "prompted": cfg.PROPOSALS.PROMPTED.WEIGHTS}
    proposals = made_by.get(cfg.PROPOSALS.SOURCE, cfg.PROPOSALS.PATH)
    from_files = (cfg.PROPOSALS.SOURCE, cfg.PROPOSALS.BUILTIN.CONTOURS) == ("builtin", "files")
    contours = [cfg.PROPOSALS.BUILTIN.CONTOUR_PATH] if from_files else []
    paths = [cfg.DATASETS.OWN_TRAIN.GT_JSON, cfg.DATASETS.OWN_TEST.GT_JSON]
    if kind in ("train", "cams", "contours", "pseudo_labels"):
        paths += [cfg.MODEL.WEIGHTS, cfg.MODEL.TRANSFORMERS.NAME]
    if kind == "train":
        names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
        paths += [pseudo.JSON, pseudo.REVIEW] if pseudo.NAME in names else []
        paths += [pseudo.SEM_SEG_ROOT] if pseudo.SEM_SEG_NAME in names else []
        paths += build_supervision(cfg).folders
        paths += [proposals, *contours] if cfg.TEST.REFINE_WITH_PROPOSALS else []
        if cfg.MODEL.LOAD_PROPOSALS:
            paths += [*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST]
    elif kind == "seeds":
        paths.append(cfg.CAM.PATH)
    elif kind == "contours":
        paths.append(cfg.CONTOURS.ADD_TO)
    elif kind == "proposals":
        paths += contours
    elif kind == "combine":
        labels = cfg.AGREEMENT
        paths += [*labels.LABELS, labels.STUDENT, labels.CALIBRATION, labels.TRUE_MASKS]
        paths.append(cfg.PSEUDO_LABELS.STRONGER_LABELS)
    elif kind == "pseudo_labels":
        # A generator of the user's own may read any of them.
        paths += [proposals, *contours, cfg.CAM.PATH, cfg.PSEUDO_LABELS.SELF_TRAINING.OLD_LABELS]
        text_boxes = cfg.PSEUDO_LABELS.TEXT_BOXES
        paths += [text_boxes.WEIGHTS, *synonym_files(text_boxes.SYNONYMS)]
        paths.append(cfg.PSEUDO_LABELS.STRONGER_LABELS)
    return [path for path in paths if path]


def digest_path(path: str) -> str:
    """Tells what a path holds from what it held before.

    Args:
        path: a file, whose bytes count; a folder, where the names, sizes and times of change of
            its files do, as there may be gigabytes; or an address such as ``detectron2://...``,
            which stands for itself, as does a path where nothing is.
    """
    if "://" in path:
        return path
    if os.path.isfile(path):
        status = os.stat(path)
        return _cached_sha256(path, status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256()
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            entry = [os.path.relpath(file, path)]
            with suppress(OSError):  # a link to nothing
                status = os.stat(file)
                entry += [status.st_size, status.st_mtime_ns]
            digest.update(f"{entry}\n".encode())
    return digest.hexdigest()


@functools.cache
def _cached_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    """Several stages read the same weights."""
    return file_sha256(path)


def write_outputs(cfg: CfgNode, kind: str, output: str) -> None:
    """Record what a stage has made, in ``OUTPUT_DIR/outputs.json``.

    Args:
        cfg: the stage's config.
        kind: what the stage runs.
        output: the recipe's output folder.
    """
    digest = hashlib.sha256()
    sizes = {}
    for path in _made_files(cfg, kind, output):
        name = os.path.relpath(path, cfg.OUTPUT_DIR)
        sizes[name] = os.path.getsize(path)
        digest.update(f"{name} {file_sha256(path)}\n".encode())
    value = {"sha256": digest.hexdigest(), "files": sizes}
    write_json(os.path.join(cfg.OUTPUT_DIR, OUTPUTS_FILE), value)


def _made_files(cfg: CfgNode, kind: str, output: str) -> Iterable[str]:
    if kind == "train":
        return [os.path.join(cfg.OUTPUT_DIR, "model_final.pth")]
    if kind == "report":
        return [os.path.join(output, REPORT_FILE)]
    if kind == "cams":
        return _label_files(cfg, cfg.CAM.PATH, ".npz")
    if kind == "seeds":
        return _label_files(cfg, cfg.SEEDS.PATH, ".png")
    if kind == "contours":
        name = label_dataset_name(cfg)
        folder = ContourFolder(cfg.CONTOURS.PATH, ".png", name)
        return [p for p in map(folder.path, dataset_dicts(name)) if os.path.isfile(p)]
    if kind == "pseudo_labels":
        labels = os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE)
        boxes = filter(os.path.isfile, [boxes_file(labels)])
        return [labels, *boxes, *_label_files(cfg, sem_seg_folder(labels), ".png")]
    if kind == "combine":
        labels = os.path.join(cfg.OUTPUT_DIR, PSEUDO_LABEL_FILE)
        return [labels, *filter(os.path.isfile, [calibration_file(labels)])]
    # A source of files makes none.
    cache = getattr(build_proposal_source(cfg).reader, "cache", None)
    return sorted(map(str, Path(cache.folder).glob("*.json.gz"))) if cache is not None else []


def _label_files(cfg: CfgNode, folder: str, extension: str) -> list[str]:
    """The files of the labelled images that are there (not every generator gives maps)."""
    name = label_dataset_name(cfg)
    image_folder = ImageFolder(folder, extension, name)
    return [p for p in map(image_folder.path, dataset_dicts(name)) if os.path.isfile(p)]


def read_outputs(folder: str) -> dict:
    """What :func:`write_outputs` recorded in a stage's folder, {} where it did not."""
    return read_json(os.path.join(folder, OUTPUTS_FILE))


def outputs_exist(folder: str) -> bool:
    """Whether everything that a stage has made is still there, at its size."""
    sizes = read_outputs(folder).get("files")
    return isinstance(sizes, dict) and all(
        _size(os.path.join(folder, name)) == size for name, size in sizes.items()
    )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):  # no file, or a name that no file has
        return -1


@dataclass(frozen=True)
class StageState:
    """What decides how a stage comes out.

    Attributes:
        fingerprint: SHA-256 of it all, 64 hex digits.
        parts: SHA-256 by what it is: "config", "version", "stage 'cams'", "'weights.pth'" or
            "dataset 'voc'".
    """

    fingerprint: str
    parts: dict[str, str]


def stage_state(
    cfg: CfgNode,
    kind: str,
    inputs: Sequence[str],
    output: str,
    earlier: Mapping[str, str],
    hashes: ImageHashes | None = None,
) -> StageState:
    """Changes when a stage's config, data, outside files, earlier stages or the version do.

    Args:
        cfg: the stage's config.
        kind: what the stage runs.
        inputs: names of the earlier stages that it reads.
        output: the recipe's output folder.
        earlier: the earlier stages' fingerprints, by their names.
        hashes: of images, what is known and what will be; None: all images are read.

    Raises:
        UserError: an image is absent or cannot be read.
    """
    hashes = hashes or ImageHashes()
    whole = hashlib.sha256()
    parts = defaultdict(hashlib.sha256)
    for name, text in _deciding_texts(cfg, kind, inputs, output, earlier, hashes):
        whole.update(text.encode())
        parts[name].update(text.encode())
    digests = {name: part.hexdigest() for name, part in parts.items()}
    return StageState(whole.hexdigest(), digests)


def _deciding_texts(
    cfg: CfgNode,
    kind: str,
    inputs: Sequence[str],
    output: str,
    earlier: Mapping[str, str],
    hashes: ImageHashes,
) -> Iterator[tuple[str, str]]:
    yield "version", f"{__version__} {kind}\n"
    # Paths below the output folder are the same results wherever that folder is.
    yield "config", deciding_config(cfg, kind).dump().replace(output, "{output}")
    for name in inputs:
        made = read_outputs(os.path.join(output, name)).get("sha256", "")
        yield f"stage '{name}'", f"{name}: {earlier[name]} {made}\n"
    own = [cfg.OUTPUT_DIR, *(os.path.join(output, name) for name in inputs)]
    for path in outside_inputs(cfg, kind):
        if not any(_is_inside(path, folder) for folder in own):
            yield f"'{path}'", f"{digest_path(path)}\n"
    pseudo = (cfg.DATASETS.PSEUDO.NAME, cfg.DATASETS.PSEUDO.SEM_SEG_NAME)
    names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, cfg.PSEUDO_LABELS.DATASET, ""} - {*pseudo}
    if {*cfg.DATASETS.TRAIN} & {*pseudo}:  # labels of these images
        names.add(cfg.DATASETS.PSEUDO.SOURCE)
    for name in sorted(names - {""}):
        for text in _dataset_texts(name, hashes):
            yield f"dataset '{name}'", text


def deciding_config(cfg: CfgNode, kind: str) -> CfgNode:
    """The part of a config that decides how a stage of a kind comes out."""
    deciding = cfg.clone()
    deciding.defrost()
    for key in (*UNDECIDING_KEYS, *UNDECIDING_SECTIONS.get(kind, [])):
        *sections, name = key.split(".")
        functools.reduce(CfgNode.__getitem__, sections, deciding).pop(name, None)
    return deciding


def _is_inside(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _dataset_texts(name: str, hashes: ImageHashes) -> Iterator[str]:
    metadata = MetadataCatalog.get(name)
    root = metadata.get("image_root")
    yield json.dumps([metadata.get("thing_classes"), metadata.get("stuff_classes")])
    dataset = dataset_dicts(name)
    for d, sha256 in zip(dataset, hashes.of([d["file_name"] for d in dataset])):
        # The same images are the same wherever they lie, and whenever they were copied there.
        relative = {key: _relative(value, root) for key, value in d.items()}
        yield json.dumps(relative, sort_keys=True, default=str) + f" {sha256}\n"


def _relative(value: Any, root: str | None) -> Any:
    is_path = root and isinstance(value, str) and os.path.isabs(value)
    return os.path.relpath(value, root) if is_path else value
