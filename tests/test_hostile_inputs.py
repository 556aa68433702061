"""Every reader of files, given damaged and invented ones: a result or a ``UserError``, no more.

Each reader gets 200 files here, always the same. For 10,000 others each::

    python -m pytest tests/test_hostile_inputs.py -rP --hypothesis-profile nightly
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from conftest import json_values
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from wsis_d2.data import (
    PseudoLabelMapper,
    load_coco_image_labels,
    load_image_labels_csv,
    load_image_labels_jsonl,
    load_label_studio_choices,
    load_voc_image_labels,
    read_label_map,
    read_stronger_labels,
    register_image_level_dataset,
    register_pseudo_labels,
    replace_dataset,
    semantic_truth,
    write_label_map,
)
from wsis_d2.data.image_files import read_image_sizes
from wsis_d2.data.image_folder import ImageFolder
from wsis_d2.data.shapes import _read_parameters
from wsis_d2.engine import combine_labels, load_config
from wsis_d2.engine.setup import merged_config
from wsis_d2.errors import UserError
from wsis_d2.evaluation import LabelShards, apply_review, evaluate_mask_files, shard_file
from wsis_d2.evaluation.export.labels import Selection, read_labels
from wsis_d2.evaluation.label_records import LabelRecords
from wsis_d2.evaluation.label_shards import shard_header, write_shard
from wsis_d2.files import file_sha256
from wsis_d2.images import read_image
from wsis_d2.labeling import ScoreCalibration, cam_files, read_calibration, read_cam, write_cam
from wsis_d2.labeling.self_training import LabelFile
from wsis_d2.parallel import Shard
from wsis_d2.proposals import (
    CocoResultsProposals,
    MatProposals,
    ProposalCache,
    SegmentAnythingProposals,
    hed,
    load_hed,
)
from wsis_d2.proposals.contour_proposals import contours_from_file
from wsis_d2.recipes import recipe as recipes
from wsis_d2.recipes.run import _read_result
from wsis_d2.structures import MaskProposals, encode_mask
from wsis_d2.weights.checkpoint import WSISCheckpointer

SIZE = (6, 8)
MASK = np.random.default_rng(0).random(SIZE) < 0.5
RLE = encode_mask(MASK)
RUNS = {"size": list(SIZE), "counts": [7, 20, 21]}
OUTLINE = [[1, 1, 5, 1, 5.5, 4, 1, 4]]
CLASSES = ["cat", "dog"]
NAME = "hostile_inputs"

NUM_EXAMPLES = max(200, settings().max_examples)
fuzz = settings(
    max_examples=NUM_EXAMPLES,
    derandomize=NUM_EXAMPLES == 200,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Probe(NamedTuple):
    """A reader and the file that it is given.

    Attributes:
        write: puts the bytes of an example where they are read.
        read: reads them.
        files: bytes of valid files.
        values: valid contents of a reader of JSON or YAML, to be changed as such.
        encode: the bytes of such a content.
    """

    write: Callable[[bytes], object]
    read: Callable[[], object]
    files: Sequence[bytes] = ()
    values: Sequence[Any] = ()
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()


# ------------------------------------------------------------------------------------- damage

#: What numbers, texts and structures of files are overwritten with.
TOKENS = (
    *(
        b"0",
        b"-1",
        b"1e308",
        b"1e9",
        b"NaN",
        b"-Infinity",
        b"2147483648",
        b"4294967295",
        b"9" * 5000,
    ),
    *(
        b"[]",
        b"{}",
        b"null",
        b'""',
        b"''",
        b"[" * 2000,
        b'{"a":' * 2000,
        b"\xff\xfe",
        b"\0",
        b"../" * 4,
    ),
    *(
        bytes(4),
        b"\xff" * 4,
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x80",
        b"\x7f\xff\xff\xff",
        b"\0\x10\0\0",
    ),
)


def _place(position: int, data: bytes) -> int:
    return position % (len(data) + 1)


def _splice(data: bytes, position: int, other: int) -> bytes:
    start, end = sorted((_place(other, data), _place(other >> 8, data)))
    place = _place(position, data)
    return data[:place] + data[start:end] + data[place:]


def _overwrite(data: bytes, position: int, token: bytes) -> bytes:
    place = _place(position, data)
    return data[:place] + token + data[place + len(token) :]


def _insert(data: bytes, position: int, token: bytes) -> bytes:
    place = _place(position, data)
    return data[:place] + token + data[place:]


def _flip(data: bytes, position: int, bit: int) -> bytes:
    if not data:
        return data
    place = position % len(data)
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def _truncate(data: bytes, position: int, _: None) -> bytes:
    return data[: _place(position, data)]


_positions = st.integers(0, 2**16)
_tokens = st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=6)
_accidents = st.lists(
    st.one_of(
        st.tuples(st.just(_flip), _positions, st.integers(0, 7)),
        st.tuples(st.just(_overwrite), _positions, _tokens),
        st.tuples(st.just(_insert), _positions, _tokens),
        st.tuples(st.just(_splice), _positions, st.integers(0, 2**20)),
        st.tuples(st.just(_truncate), _positions, st.none()),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """A valid file after one to four accidents."""
    data = draw(st.sampled_from(files))
    for damage, position, argument in draw(_accidents):
        data = damage(data, position, argument)
    return data


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


_odd_values = st.sampled_from(
    [1e308, 1e9, -1, 2**31, 2**63, 10**400, float("nan"), float("inf"), 0, True, None]
    + [
        "",
        "-1",
        "../../escape",
        "\ud800",
        "a\0b",
        "{0.__class__}",
        "{a:>999999999}",
        "{",
        "x" * 300,
    ]
    + [[], {}, [[]], [{}], [None], _nested(300), {"size": [2**31, 1], "counts": [2**31]}]
)


DELETED = object()
_changes = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.just(DELETED) | _odd_values | json_values("size", "counts", "id", "name"),
    ),
    min_size=1,
    max_size=3,
)


def _replace(value: Any, place: int, new: Any) -> tuple[Any, int]:
    """``value`` with its ``place``-th part replaced, and how many places are left to go."""
    if place == 0:
        return new, -1
    place -= 1
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            part, place = _replace(value[key], place, new)
            if place < 0:
                copy = value.copy()
                if new is DELETED and part is DELETED:
                    del copy[key]
                else:
                    copy[key] = part
                return copy, -1
    return value, place


def _count_parts(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count_parts, parts))


@st.composite
def changed_values(draw: st.DrawFn, values: Sequence[Any]) -> Any:
    """A valid value of which one to three parts are others, or missing."""
    value = draw(st.sampled_from(values))
    for place, new in draw(_changes):
        value, _ = _replace(value, place % _count_parts(value), new)
        value = [] if value is DELETED else value
    return value


@contextmanager
def limits(seconds: float = 60, memory: int = 2**31) -> Iterator[None]:
    """Two gigabytes more than now, and no hang."""

    def ring(*_: object) -> None:
        raise TimeoutError("the reader hangs")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


# ------------------------------------------------------------------------------------- readers


def _coco(**changes: Any) -> dict:
    annotations = [
        {"image_id": 5, "category_id": 1 + i % 2, "segmentation": mask, "bbox": [1, 1, 4, 3]}
        for i, mask in enumerate((RLE, RUNS, OUTLINE, RLE))
    ]
    extra = {
        "area": 12,
        "iscrowd": 0,
        "score": 0.5,
        "candidates": [{"segmentation": RLE, "weight": 1}],
    }
    annotations = [{**a, **extra, "id": i + 1} for i, a in enumerate(annotations)]
    annotations[3]["iscrowd"] = 1
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        **changes,
    }


def _rows(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _save_image(folder: Path, name: str = "a.png") -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def _json_probe(path: Path, read: Callable[[], object], *values: Any, **options: Any) -> Probe:
    files = [json.dumps(value).encode() for value in values]
    return Probe(path.write_bytes, read, files, values, **options)


def _ground_truth(folder: Path) -> Probe:
    path, valid = folder / "gt.json", folder / "pred.json"
    valid.write_text(json.dumps(_coco()))
    return _json_probe(path, lambda: evaluate_mask_files(path, valid, coco=True), _coco())


def _detections(folder: Path) -> Probe:
    path, valid = folder / "pred.json", folder / "gt.json"
    valid.write_text(json.dumps(_coco()))
    read = lambda: evaluate_mask_files(valid, path, coco=True)  # noqa: E731
    return _json_probe(path, read, _coco(), _coco()["annotations"])


def _semantic_truth(folder: Path) -> Probe:
    _save_image(folder)
    (folder / "labels.csv").write_text("file_name,labels\na.png,dog\n")
    path = folder / "gt.json"

    def read() -> None:
        labels = str(folder / "labels.csv")
        register_image_level_dataset(NAME, str(folder), labels, CLASSES, str(path))
        truth = semantic_truth(NAME)
        for dataset_dict in DatasetCatalog.get(NAME):
            truth(dataset_dict)

    return _json_probe(path, read, _coco())


def _pseudo_labels(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "labels.json"
    mapper = PseudoLabelMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        ignore_regions=True,
    )

    def read() -> None:
        MetadataCatalog.pop(NAME, None)  # the classes of the example before
        register_pseudo_labels(NAME, str(path), str(folder), keep_candidates=True)
        for dataset_dict in DatasetCatalog.get(NAME):
            mapper(dataset_dict)

    return _json_probe(path, read, _coco())


def _combined_labels(folder: Path) -> Probe:
    _save_image(folder)
    path, valid = folder / "labels.json", folder / "valid.json"
    valid.write_text(json.dumps(_coco()))
    register_image_level_dataset(NAME, str(folder), str(valid), gt_json=str(valid))
    labels = f"('{path}', '{valid}')"
    options = ["AGREEMENT.LABELS", labels, "AGREEMENT.STUDENT", str(path), "MODEL.DEVICE", "cpu"]
    cfg = load_config("", ["DATASETS.TRAIN", f"('{NAME}',)", *options])
    read = lambda: combine_labels(cfg, str(folder / "combined.json"))  # noqa: E731
    return _json_probe(path, read, _coco(), _coco()["annotations"])


def _calibration(folder: Path) -> Probe:
    path = folder / "calibration.json"
    content = ScoreCalibration(-1.0, {"rank": 0.5}, {"WISE": 0.1}, {"cat": -0.2}).to_json()

    def read() -> None:
        scores = read_calibration(path)(np.ones((1, 4)), ["WISE"], ["cat"])
        assert ((scores >= 0) & (scores <= 1)).all()

    return _json_probe(path, read, content)


def _old_labels(folder: Path) -> Probe:
    path = folder / "labels.json"
    content = _coco()
    content["annotations"] = [a for a in content["annotations"] if a["segmentation"] != OUTLINE]
    x = {"image_id": 5, "height": SIZE[0], "width": SIZE[1]}
    return _json_probe(path, lambda: LabelFile(str(path)).get(x), content)


def _own_coco_labels(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "labels.json"
    return _json_probe(
        path, lambda: load_coco_image_labels(str(path), str(folder), CLASSES), _coco()
    )


def _stronger_labels(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "some.json"
    image = {"file_name": str(folder / "a.png"), "image_id": 1, "image_labels": [0]}
    replace_dataset(
        "hostile_stronger_labels",
        lambda: [{**image, "height": SIZE[0], "width": SIZE[1]}],
        thing_classes=CLASSES,
        image_root=str(folder),
    )
    places = [{"bbox": [1, 1, 4, 3]}, {"point": [2, 3]}, {"keypoints": [0, 0, 0, 2, 3, 2]}]
    more = [{"image_id": 5, "category_id": 1, **place} for place in places]
    content = _coco()
    content["annotations"] += more
    return _json_probe(
        path, lambda: read_stronger_labels(str(path), "hostile_stronger_labels"), content
    )


def _csv(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "labels.csv"
    files = [
        b"file_name,labels\na.png,dog:2;cat:5+\n",
        b'\xef\xbb\xbffile_name,labels\r\n"a.png",dog\r\n',
    ]
    return Probe(path.write_bytes, lambda: load_image_labels_csv(str(path), str(folder)), files)


def _jsonl(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "metadata.jsonl"

    def encode(value: Any) -> bytes:
        return b"\n".join(json.dumps(line).encode() for line in _rows(value))

    lines = [{"file_name": "a.png", "label": ["dog", 3]}]
    read = lambda: load_image_labels_jsonl(str(path), str(folder))  # noqa: E731
    return Probe(path.write_bytes, read, [encode(lines)], [lines], encode)


def _label_studio(folder: Path) -> Probe:
    _save_image(folder)
    path = folder / "export.json"
    chosen = {"type": "choices", "value": {"choices": ["dog"]}}
    data = {"image": "/data/local-files/?d=photos/a.png"}
    tasks = [{"id": 1, "data": data, "annotations": [{"result": [chosen], "was_cancelled": False}]}]
    short = [{"image": "http://x/1234abcd-a.png", "choice": "dog", "id": 1}]
    read = lambda: load_label_studio_choices(str(path), str(folder))  # noqa: E731
    return _json_probe(path, read, tasks, short)


def _review(folder: Path) -> Probe:
    labels, path = folder / "labels.json", folder / "review.json"
    labels.write_text(json.dumps(_coco()))
    value = {
        "review": 1,
        "labels_sha256": file_sha256(str(labels)),
        "min_scores": [{"category_id": 1, "score": 0.4}],
        "accepted": [1],
        "rejected": [2],
        "reclassified": [{"id": 3, "category_id": 1}],
    }
    read = lambda: apply_review(labels, path, folder / "out.json")  # noqa: E731
    return _json_probe(path, read, value)


def _reviewed_labels(folder: Path) -> Probe:
    path, review, output = (folder / f"{name}.json" for name in ("labels", "review", "out"))

    def read() -> None:
        value = {"review": 1, "labels_sha256": file_sha256(str(path)), "rejected": [1]}
        review.write_text(json.dumps(value))
        apply_review(path, review, output)

    return _json_probe(path, read, _coco())


def _exported_labels(folder: Path) -> Probe:
    path = folder / "labels.json"
    return _json_probe(path, lambda: read_labels(path, Selection()), _coco())


ANNOTATION = (
    "<annotation><size><width>8</width><height>6</height></size><object><name>dog</name>"
    "<difficult>0</difficult></object></annotation>"
)


def _devkit(folder: Path) -> Callable[[], object]:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    _save_image(folder / "JPEGImages", "2007_000001.png")
    (folder / "Annotations" / "2007_000001.xml").write_text(ANNOTATION)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("2007_000001\n")
    return lambda: load_voc_image_labels(str(folder), "Main/train", CLASSES)


def _voc_list(folder: Path) -> Probe:
    files = [b"2007_000001\n", b"/JPEGImages/2007_000001.png /SegmentationClass/2007_000001.png\n"]
    read = _devkit(folder)
    return Probe((folder / "ImageSets" / "Main" / "train.txt").write_bytes, read, files)


def _voc_xml(folder: Path) -> Probe:
    header = '<?xml version="1.0" encoding="UTF-8"?>'
    files = [ANNOTATION.encode(), (header + ANNOTATION).encode(), (ANNOTATION).encode("utf-16")]
    read = _devkit(folder)
    return Probe((folder / "Annotations" / "2007_000001.xml").write_bytes, read, files)


def _proposal_cache(folder: Path) -> Probe:
    image = _save_image(folder)
    cache = ProposalCache(folder / "cache", {})
    record = MaskProposals([RLE, RLE], [0.5, 0.7]).to_json()

    def encode(value: Any) -> bytes:
        return gzip.compress(json.dumps(value).encode(), mtime=0)

    write, read = cache.path(image).write_bytes, lambda: cache.get(image).decode()
    return Probe(write, read, [encode(record)], [record], encode)


def _mat(folder: Path) -> Probe:
    cells = np.empty((2, 1), dtype=object)
    cells[0, 0], cells[1, 0] = np.array([1, 2], np.uint16), np.array([3], np.uint16)
    contents = (
        {"masks": np.stack([MASK, ~MASK], 2).astype(np.uint8), "scores": np.array([0.5, 0.4])},
        {"superpixels": np.arange(48).reshape(SIZE), "labels": cells, "note": "x", "s": {"a": 1.0}},
    )
    files = []
    for content in contents:
        for do_compression in (False, True):
            buffer = io.BytesIO()
            savemat(buffer, content, do_compression=do_compression)
            files.append(buffer.getvalue())
    read = lambda: MatProposals(folder).read("a.png", 1, SIZE)  # noqa: E731
    return Probe((folder / "a.mat").write_bytes, read, files)


def _coco_results(folder: Path) -> Probe:
    path = folder / "results.json"
    read = lambda: CocoResultsProposals(path).read("a.png", 5, SIZE).decode()  # noqa: E731
    return _json_probe(path, read, _coco()["annotations"])


def _segment_anything(folder: Path) -> Probe:
    records = [{"segmentation": mask, "predicted_iou": 0.7} for mask in (RLE, RUNS, OUTLINE)]
    read = lambda: SegmentAnythingProposals(folder).read("a.png", 1, SIZE).decode()  # noqa: E731
    return _json_probe(folder / "a.json", read, records, {"annotations": records})


def _cams(folder: Path) -> Probe:
    path = folder / "a.npz"
    write_cam(path, torch.rand(2, 4, 5), torch.tensor([0, 3]))
    buffer = io.BytesIO()
    np.savez(buffer, cam=np.ones((1, 2, 2), np.float32), class_ids=np.array([1]))
    return Probe(path.write_bytes, lambda: read_cam(path), [path.read_bytes(), buffer.getvalue()])


def _label_map(folder: Path) -> Probe:
    path = folder / "a.png"
    write_label_map(path, MASK.astype(np.uint8))
    return Probe(path.write_bytes, lambda: read_label_map(path), [path.read_bytes()])


def _contour_map(folder: Path) -> Probe:
    path = folder / "a.png"
    Image.fromarray((MASK * 200).astype(np.uint8)).save(path)
    image = np.zeros((*SIZE, 3), np.uint8)
    return Probe(path.write_bytes, lambda: contours_from_file(image, path), [path.read_bytes()])


def _image(folder: Path) -> Probe:
    extensions = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")
    files = [_save_image(folder, f"a.{extension}").read_bytes() for extension in extensions]
    path = folder / "image"

    def read() -> None:
        read_image_sizes([str(path)])
        read_image(path)

    return Probe(path.write_bytes, read, files)


def _network() -> torch.nn.Module:
    network = torch.nn.Module()
    network.backbone = torch.nn.Conv2d(3, 2, 1)
    network.classifier = torch.nn.Conv2d(2, 2, 1)
    return network


def _checkpoint(folder: Path, extension: str, *files: bytes, exact: bool) -> Probe:
    path = folder / f"model.{extension}"
    options = {"meta_architecture": "PRMClassifier", "classes": CLASSES, "exact": exact}
    read = lambda: WSISCheckpointer(_network(), **options).load(str(path))  # noqa: E731
    return Probe(path.write_bytes, read, files)


def _pth(folder: Path) -> Probe:
    WSISCheckpointer(
        _network(), str(folder), meta_architecture="PRMClassifier", classes=CLASSES
    ).save("saved", iteration=3)
    legacy = io.BytesIO()
    torch.save(_network().state_dict(), legacy, _use_new_zipfile_serialization=False)
    return _checkpoint(
        folder, "pth", (folder / "saved.pth").read_bytes(), legacy.getvalue(), exact=True
    )


def _pkl(folder: Path) -> Probe:
    weights = {name: value.numpy() for name, value in _network().state_dict().items()}
    contents = ({"model": weights, "__author__": "us"}, {"blobs": weights})
    return _checkpoint(folder, "pkl", *map(pickle.dumps, contents), exact=False)


def _safetensors(folder: Path) -> Probe:
    safetensors = pytest.importorskip("safetensors.torch")
    return _checkpoint(
        folder, "safetensors", safetensors.save(dict(_network().state_dict())), exact=False
    )


def _hed_weights(folder: Path) -> Probe:
    h5py = pytest.importorskip("h5py")
    path = folder / "hed.weights.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hed, "_BLOCKS", tuple((1, depth) for _, depth in hed._BLOCKS))
        network = hed.HED()
        with h5py.File(path, "w") as file:
            for name, module in hed._layers(network):
                file[f"{name}/vars/0"] = module.weight.detach().permute(2, 3, 1, 0).numpy()
                file[f"{name}/vars/1"] = module.bias.detach().numpy()

    def read() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hed, "_BLOCKS", tuple((1, depth) for _, depth in hed._BLOCKS))
            load_hed(str(path))

    return Probe(path.write_bytes, read, [path.read_bytes()])


def _config(folder: Path) -> Probe:
    (folder / "base.yaml").write_text("SEED: 3\nMODEL: {WEIGHTS: x}\n")
    path = folder / "config.yaml"
    value = {
        "_BASE_": "base.yaml",
        "VERSION": 2,
        "SOLVER": {"MAX_ITER": 5, "STEPS": [3, 4], "BASE_LR": 0.5},
        "DATASETS": {"TRAIN": ["a"], "OWN_TRAIN": {"IMAGE_ROOT": "images"}},
    }
    files = [
        yaml.safe_dump(value).encode(),
        b"SOLVER: {<<: [&a {MAX_ITER: 3}, *a], BASE_LR: 0.5}\n",
    ]
    return Probe(path.write_bytes, lambda: merged_config(str(path), []), files, [value])


def _recipe(folder: Path) -> Probe:
    stages = [
        {"name": "first", "run": "train", "config": "config.yaml"},
        {
            "name": "labels",
            "run": "pseudo_labels",
            "config": "config.yaml",
            "options": {"MODEL.WEIGHTS": "{first}/model_final.pth", "SEED": 3},
            "inputs": ["first"],
        },
    ]
    base = {"title": "A test", "stages": stages}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    path = folder / "recipe.yaml"
    options = {"options": {"SEED": 4}}
    heir = {"_BASE_": "base.yaml", "title": "x", "stages": {"first": options, "labels": None}}

    def read() -> None:
        recipe = recipes.load_recipe(str(path))
        for stage in recipe.stages:
            recipes._config_arguments(recipe, stage, "/output", [])
            assert os.path.dirname(os.path.abspath(f"/output/{stage.name}")) == "/output"

    values = [base, heir]
    return Probe(path.write_bytes, read, [yaml.safe_dump(v).encode() for v in values], values)


def _stage_files(folder: Path) -> Probe:
    result = {"fingerprint": "f", "seconds": 3.0, "metrics": {}}
    outputs = {"sha256": "0", "files": {"stage.json": 3}}

    def write(data: bytes) -> None:
        for name in ("stage.json", "outputs.json"):
            (folder / name).write_bytes(data)

    values = [result, outputs, {**result, **outputs}]
    files = [json.dumps(value).encode() for value in values]
    return Probe(write, lambda: _read_result(str(folder), "f"), files, values)


def _folder_of_files(folder: Path) -> Probe:
    image = str(_save_image(folder))
    MetadataCatalog.get(NAME).image_root = str(folder)
    image_folder = ImageFolder(str(folder / "cams"), ".npz", NAME, "CAM.PATH")
    file = image_folder.path({"file_name": image})

    def open_folder() -> None:
        image_folder.open({"a": 1}, {file: [image]})
        image_folder.content_fingerprint()

    open_folder()
    sources = json.loads((folder / "cams" / "sources.json").read_text())

    def write(data: bytes) -> None:
        Path(file).touch()
        for name in ("sources.json", "settings.json"):
            (folder / "cams" / name).write_bytes(data)

    def read() -> None:
        try:
            open_folder()
        except UserError:
            image_folder.content_fingerprint()
            raise

    values = [sources, {"a": 1}]
    return Probe(write, read, [json.dumps(value).encode() for value in values], values)


def _label_records(folder: Path) -> Probe:
    lines = [[5, _coco()["annotations"]], ["b", []]]
    LabelRecords(str(folder / "labels"), "f").append(*lines[0])
    (path,) = (folder / "labels").iterdir()

    def write(data: bytes) -> None:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        path.write_bytes(data)

    def read() -> None:
        records = LabelRecords(str(path.parent), "f", resume=True)
        with records.collect() as reader:
            for image_id in records.resumed:
                assert all("iscrowd" in a for a in reader.annotations(image_id))

    def encode(value: Any) -> bytes:
        return b"".join(json.dumps(row).encode() + b"\n" for row in _rows(value))

    return Probe(write, read, [encode(lines)], [lines], encode)


def _label_shards(folder: Path) -> Probe:
    dataset = [{"image_id": i, "height": 6, "width": 8} for i in range(2)]
    output, info = str(folder / "labels.json"), {"seed": 1}
    path = Path(shard_file(output, Shard(0, 1)))
    annotations = _coco()["annotations"]
    header = shard_header(Shard(0, 1), info, "f")
    write_shard(str(path), header, [0, 1], lambda _: annotations)

    def read() -> None:
        with LabelShards(output, 1, info, "f", dataset) as shards:
            for dataset_dict in dataset:
                found = shards.annotations(dataset_dict["image_id"])
                assert all("iscrowd" in a for a in found)

    def encode(value: Any) -> bytes:
        return b"".join(json.dumps(row).encode() + b"\n" for row in _rows(value))

    lines = [header, [0, annotations], [1, []]]
    return Probe(path.write_bytes, read, [path.read_bytes()], [lines], encode)


def _shapes(folder: Path) -> Probe:
    path = folder / "shapes.json"
    return _json_probe(path, lambda: _read_parameters(folder), {"dataset": "Shapes", "seed": 0})


READERS = {
    "ground truth of evaluate_masks": _ground_truth,
    "detections of evaluate_masks": _detections,
    "semantic truth": _semantic_truth,
    "pseudo labels, to be learnt from": _pseudo_labels,
    "pseudo labels to be combined": _combined_labels,
    "calibration of scores": _calibration,
    "pseudo labels of an earlier round": _old_labels,
    "COCO JSON of image labels": _own_coco_labels,
    "points, boxes and masks of some images": _stronger_labels,
    "CSV of image labels": _csv,
    "JSON lines of image labels": _jsonl,
    "Label Studio's choices": _label_studio,
    "labels to be exported": _exported_labels,
    "review of pseudo labels": _review,
    "reviewed pseudo labels": _reviewed_labels,
    "VOC list": _voc_list,
    "VOC annotation": _voc_xml,
    "proposal cache": _proposal_cache,
    ".mat proposals": _mat,
    "COCO results as proposals": _coco_results,
    "segment-anything's proposals": _segment_anything,
    "CAMs": _cams,
    "label map": _label_map,
    "contour map": _contour_map,
    "image": _image,
    "checkpoint .pth": _pth,
    "checkpoint .pkl": _pkl,
    "checkpoint .safetensors": _safetensors,
    "HED's weights": _hed_weights,
    "config": _config,
    "recipe": _recipe,
    "stage.json and outputs.json": _stage_files,
    "settings.json and sources.json": _folder_of_files,
    "partial labels": _label_records,
    "labels of a shard": _label_shards,
    "parameters of Shapes": _shapes,
}


@pytest.fixture
def own_dataset():
    yield
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


@pytest.mark.usefixtures("own_dataset")
@pytest.mark.parametrize("name", READERS)
def test_any_file_is_read_or_refused(name, tmp_path):
    probe = READERS[name](tmp_path)
    outcomes = {"read": 0, "refused": 0}
    examples = damaged_bytes(probe.files)
    if probe.values:
        examples |= changed_values(probe.values).map(probe.encode)

    @fuzz
    @given(examples)
    def read(data: bytes) -> None:
        probe.write(data)
        with limits():
            try:
                probe.read()
            except UserError as error:
                assert str(error)  # noqa: PT017
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1

    for data in (*probe.files, *map(probe.encode, probe.values)):
        probe.write(data)
        probe.read()
    read()
    print(f"{name}: {sum(outcomes.values())} inputs, {outcomes['refused']} of them refused")


def _with_mask(segmentation: Any, **image: Any) -> bytes:
    content = _coco()
    content["annotations"] = [{**content["annotations"][0], "segmentation": segmentation}]
    content["images"][0].update(image)
    return json.dumps(content).encode()


def _with_score(score: Any) -> bytes:
    return json.dumps([{**_coco()["annotations"][0], "score": score}]).encode()


def _mat_of_cells(count: int) -> bytes:
    """A cell array of one cell that says of itself to have ``count``."""
    buffer = io.BytesIO()
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = MASK.astype(np.uint8)
    savemat(buffer, {"masks": cells})
    one_cell = b"\5\0\0\0\x08\0\0\0\1\0\0\0\1\0\0\0"
    return buffer.getvalue().replace(one_cell, one_cell[:12] + count.to_bytes(4, "little"), 1)


def _recipe_of(stage: str = "{name: a, run: train}", title: str = "x") -> bytes:
    return f"title: {title}\nstages: [{stage}]".encode()


_ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
_LONG_OUTLINE = [0, 0, 3e6, 0, 3e6, 5]
_DOCTYPE = '<!DOCTYPE a [<!ENTITY b "c">]>'


@pytest.mark.usefixtures("own_dataset")
@pytest.mark.parametrize(
    ("reader", "data", "message"),
    [
        (_ground_truth, _with_mask([[0, 0, 1e308, 0, 5, 5]]), "far outside its image of 6 x 8"),
        (_ground_truth, _with_mask([_LONG_OUTLINE], width=10**7), "longer than 2000000 pixels"),
        (_ground_truth, _with_mask(OUTLINE, height=float("inf")), "are not known"),
        (_detections, _with_mask({"size": [2**31, 1], "counts": [2**31]}), "whole pixels"),
        (_detections, _with_mask({"size": [2**31 - 1, 1], "counts": [2**31 - 1]}), "whole pixels"),
        (_detections, _with_score(10**400), "score of annotation 0"),
        (_semantic_truth, _with_mask([[0, 0, 1e9, 0, 5, 5]]), "gt.json' is not a mask: .*outside"),
        (_pseudo_labels, _with_mask([[0, 0, 1e9, 0, 5, 5]]), "labels.json.*far outside"),
        (_pseudo_labels, _with_mask({"size": [6, 8], "counts": [-1, 49]}), "labels.json.*damaged"),
        (_old_labels, b'{"annotations": ["a"], "categories": []}', "labels.json"),
        (
            _own_coco_labels,
            json.dumps(_coco(categories=[{"id": 1, "name": 5}])).encode(),
            "no text",
        ),
        (_csv, b"file_name,labels\na.png,dog:" + b"9" * 5000, "line 2 .* more than 9 digits"),
        (_voc_list, b"2007_000001\n\xff\n", "train.txt' is no text in UTF-8"),
        (
            _voc_xml,
            ANNOTATION.replace("<a", '<?xml version="1.0" encoding="x-a"?><a').encode(),
            "x",
        ),
        (_voc_xml, (_DOCTYPE + ANNOTATION).encode("utf-16"), "declares a document type"),
        (_voc_xml, ANNOTATION.replace("8", "-8").encode(), "000001.xml' is not an annotation"),
        (_proposal_cache, gzip.compress(b"x" * 99, mtime=0)[:12] + b"\xff" * 9, "is damaged"),
        (_proposal_cache, gzip.compress(bytes(2**26 + 1), mtime=0), "more than 64 MiB"),
        (_proposal_cache, gzip.compress(b"[" * 100_000, mtime=0), "is damaged"),
        (_coco_results, _with_score(1e308), "mask 0 of .*results.json.* is not finite"),
        (_mat, _mat_of_cells(2**31 - 1), "a.mat.* not as many cells"),
        (_cams, b"no archive", "a.npz' cannot be read"),
        (_pkl, pickle.dumps({}), "holds no weights"),
        (_pkl, pickle.dumps({"a": np.array([None])}), "holds a ndarray where weights"),
        (_config, b"[]", "config.yaml holds no config keys"),
        (_config, b"SOLVER: {IMS_PER_BATCH: null}", "IMS_PER_BATCH is None: give 1 or more"),
        (_config, b"_BASE_: 5", "config.yaml is 5: name config files"),
        (_config, b"_BASE_: config.yaml", "config.yaml is its own base"),
        (_config, _ALIASES.replace("*a0", "x").encode(), "more than 100000 values"),
        (_config, b"[" * 10_000, "nested more than 50 deep"),
        (_recipe, _recipe_of("{name: a, run: train, options: ''}"), "stage 'a' must have options"),
        (_recipe, _recipe_of("{name: a, run: []}"), "stage 'a' has the run "),
        (_recipe, _recipe_of("{name: a, run: train, inputs: 5}"), "a list of names as inputs"),
        (_recipe, _recipe_of("{name: ../../escape, run: train}"), "name of stage 1 .*escape"),
        (_recipe, _recipe_of("{name: a, run: train}, {name: a, run: cams}"), "name of stage 2"),
        (_recipe, _recipe_of("{name: a, run: train, options: {K: '{a:>9}'}}"), "option K .*braces"),
        (_recipe, _recipe_of(title="[]"), "needs a title, one line of text"),
    ],
)
def test_a_sentence_says_what_is_wrong(reader, data, message, tmp_path):
    probe = reader(tmp_path)
    probe.write(data)
    with limits(), pytest.raises(UserError, match=message):
        probe.read()


def test_cams_that_blow_up_are_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(cam_files, "_MAX_BYTES", 10_000)
    write_cam(tmp_path / "a.npz", torch.zeros(1, 99, 99), torch.tensor([0]))
    with pytest.raises(UserError, match=r"a.npz' cannot be read .*more than"):
        read_cam(tmp_path / "a.npz")


def test_stage_json_that_is_no_object_is_none(tmp_path):
    for content in ("[]", "[" * 100_000, '{"fingerprint": "f"}'):
        (tmp_path / "stage.json").write_text(content)
        assert _read_result(str(tmp_path), "f") == {}
