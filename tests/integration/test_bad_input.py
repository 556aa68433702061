"""Bad input to every tool: one clear sentence on stderr, exit code 2, and no work lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from wsis_d2.engine import Trainer, WSISCheckpointer, load_config

IMAGES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
SLIM = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 16 "
    "MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.RESNETS.NORM BN INPUT.IMAGE_LEVEL.RESIZE_TRAIN "
    "none INPUT.IMAGE_LEVEL.RESIZE_TEST none SOLVER.MAX_ITER 4 SOLVER.IMS_PER_BATCH 2 "
    "DATALOADER.NUM_WORKERS 0 PSEUDO_LABELS.PEAK_THRESHOLD -100.0 "
    "PSEUDO_LABELS.CLASS_THRESHOLD -100.0"
).split()
CLASSIFIER = "configs/own/wise/classifier.yaml"
LABELS = "configs/own/wise/pseudo_labels.yaml"
DETECTOR = "configs/shapes/mask_rcnn_R_50_slim_FPN.yaml"


class Folder:
    """Four photos with labels, and the arguments that make the tools use them."""

    def __init__(self, root: Path):
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        rng = np.random.default_rng(0)
        for name in IMAGES:
            Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(self / name)
        self.label(*zip(IMAGES, ("cat", "dog", "cat;dog", "dog")))
        (root / "file").write_text("a file where a folder is expected")

    def __truediv__(self, name: str) -> Path:
        return self.images / name

    def label(self, *rows: tuple[str, str]) -> None:
        with open(self.root / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file_name", "labels"), *rows])

    def truncate(self, name: str) -> None:
        """The header stays, so the size is known; the pixels do not."""
        content = (self / name).read_bytes()
        (self / name).write_bytes(content[: len(content) * 2 // 3])

    def options(self) -> list[str]:
        own = ("IMAGE_ROOT", self.images), ("LABELS", self.root / "labels.csv")
        return [*SLIM, *(str(x) for k, v in own for x in (f"DATASETS.OWN_TRAIN.{k}", v))]

    def train(self) -> list[str]:
        output = ("OUTPUT_DIR", str(self.root / "output"), "MODEL.WEIGHTS", "")
        return ["--config-file", CLASSIFIER, *self.options(), *output]

    def make_labels(self, output: str = "labels.json") -> list[str]:
        return [
            *("--config-file", LABELS, "--output", str(self.root / output)),
            *self.options(),
            *("MODEL.WEIGHTS", str(self.checkpoint())),
            *("PROPOSALS.PATH", str(self.root / "proposals")),
        ]

    def run_recipe(
        self, recipe: str = "configs/own/wise/recipe.yaml", output: str = "output"
    ) -> list[str]:
        paths = ("--recipe", recipe, "--output", str(self.root / output))
        return [*paths, *self.options(), "MODEL.WEIGHTS", ""]

    def train_detector(self) -> list[str]:
        pseudo = ("JSON", self.root / "pseudo.json"), ("IMAGE_ROOT", self.images)
        return [
            *("--config-file", DETECTOR, "OUTPUT_DIR", str(self.root / "output")),
            *(str(x) for k, v in pseudo for x in (f"DATASETS.PSEUDO.{k}", v)),
            *("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
            *("DATALOADER.NUM_WORKERS", "0"),
        ]

    def checkpoint(self, method: str = "PRMClassifier", classes: str = "cat dog") -> Path:
        """A classifier that has learnt nothing."""
        path = self.root / f"{method}_{classes.replace(' ', '_')}" / "model.pth"
        if not path.is_file():
            named = ("DATASETS.OWN_TRAIN.CLASSES", str(tuple(classes.split())))
            names = ("DATASETS.OWN_TRAIN.NAME", path.parent.name, "DATASETS.TRAIN")
            cfg = load_config(
                CLASSIFIER,
                [*self.options(), *named, *names, f"('{path.parent.name}',)"]
                + ["MODEL.META_ARCHITECTURE", method, "MODEL.DEVICE", "cpu"],
            )
            path.parent.mkdir()
            torch.manual_seed(0)
            WSISCheckpointer(
                Trainer.build_model(cfg),
                str(path.parent),
                meta_architecture=method,
                classes=classes.split(),
            ).save("model")
        return path

    def write_instances(self, empty: bool = False) -> Path:
        """A COCO file with a rectangle on each photo, as a label generator would write it."""
        images = [
            {"id": i, "file_name": n, "height": 40, "width": 48} for i, n in enumerate(IMAGES)
        ]
        annotation = {"category_id": 1, "iscrowd": 0, "area": 400, "bbox": [5, 5, 20, 20]}
        outline = [5, 5, 25, 5, 25, 25, 5, 25]
        content = {
            "images": images,
            "annotations": [
                {"id": i + 1, "image_id": i, "segmentation": [outline], **annotation}
                for i in range(len(IMAGES))
            ][: 0 if empty else None],
            "categories": [{"id": 1, "name": "cat"}],
        }
        path = self.root / "pseudo.json"
        path.write_text(json.dumps(content))
        return path


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def assert_one_sentence(code: int, stderr: str, *fragments: str) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    for fragment in fragments:
        assert fragment in errors[0]
    assert "Traceback" not in stderr
    assert code == 2


class Case(NamedTuple):
    """A tool, what is wrong, and what the sentence must name."""

    name: str
    tool: str
    arguments: Callable[[Folder], list]
    says: tuple[str, ...]
    damage: Callable[[Folder], object] = lambda folder: None


def _train(*more: str) -> Callable[[Folder], list]:
    return lambda f: [*f.train(), *(m.format(root=f.root) for m in more)]


def _make_labels(*more: str) -> Callable[[Folder], list]:
    return lambda f: [*f.make_labels(), *(m.format(root=f.root) for m in more)]


def _recipe(*more: str) -> Callable[[Folder], list]:
    return lambda f: [*f.run_recipe(), *(m.format(root=f.root) for m in more)]


def _weights(**of: str) -> Callable[[Folder], list]:
    return lambda f: [*f.make_labels(), "MODEL.WEIGHTS", str(f.checkpoint(**of))]


def _detector(*more: str) -> Callable[[Folder], list]:
    return lambda f: [*f.train_detector(), *more]


def _write(name: str, content: bytes) -> Callable[[Folder], object]:
    def write(f: Folder) -> None:
        path = f.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return write


def _truncated_checkpoint(f: Folder) -> None:
    path = f.checkpoint()
    (f.root / "damaged.pth").write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _detections_of_unlisted_image(f: Folder) -> None:
    f.write_instances()
    (f / "c.jpg").unlink()


CASES = [
    # -- data
    Case(
        "missing image folder",
        "train_net.py",
        _train("DATASETS.OWN_TRAIN.IMAGE_ROOT", "{root}/none"),
        ("image folder", "{root}/none", "is missing"),
    ),
    Case(
        "missing label file",
        "train_net.py",
        _train("DATASETS.OWN_TRAIN.LABELS", "{root}/none.csv"),
        ("label file", "{root}/none.csv", "is missing"),
    ),
    Case(
        "missing folder of a known dataset",
        "train_net.py",
        _train("DATASETS.TRAIN", "('voc_2012_seg_train',)"),
        ("VOC2012", "is missing", "datasets/README.md"),
    ),
    Case(
        "missing folder of the test set: found before training",
        "train_net.py",
        _train("DATASETS.TEST", "('voc_2012_seg_val',)", "SOLVER.MAX_ITER", "100000"),
        ("VOC2012", "is missing"),
    ),
    Case(
        "missing dataset folder in a recipe",
        "run_pipeline.py",
        _recipe("DATASETS.OWN_TRAIN.IMAGE_ROOT", "{root}/none"),
        ("image folder", "{root}/none"),
    ),
    Case(
        "image listed but absent",
        "train_net.py",
        _train(),
        ("{root}/images/c.jpg", "is absent", "labels.csv"),
        lambda f: (f / "c.jpg").unlink(),
    ),
    Case(
        "image listed but absent in the labels of a detector",
        "train_net.py",
        _detector(),
        ("{root}/images/c.jpg", "is absent"),
        _detections_of_unlisted_image,
    ),
    Case(
        "no image at all",
        "train_net.py",
        _train(),
        ("{root}/images/b.jpg", "cannot be read"),
        lambda f: (f / "b.jpg").write_text("<html>404</html>"),
    ),
    Case(
        "truncated image in training",
        "train_net.py",
        _train(),
        ("{root}/images/b.jpg", "cannot be read", "replace the file"),
        lambda f: f.truncate("b.jpg"),
    ),
    Case(
        "truncated image in a loader's worker",
        "train_net.py",
        _train("DATALOADER.NUM_WORKERS", "1"),
        ("{root}/images/b.jpg", "cannot be read", "replace the file"),
        lambda f: f.truncate("b.jpg"),
    ),
    Case(
        "truncated image in the training of a detector",
        "train_net.py",
        _detector(),
        ("{root}/images/b.jpg", "cannot be read"),
        lambda f: (f.write_instances(), f.truncate("b.jpg")),
    ),
    Case(
        "truncated image in label generation",
        "make_pseudo_labels.py",
        _make_labels(),
        ("{root}/images/b.jpg", "cannot be read"),
        lambda f: f.truncate("b.jpg"),
    ),
    Case(
        "label that is no class",
        "train_net.py",
        _train("DATASETS.OWN_TRAIN.CLASSES", "('cat', 'dog')"),
        ("label 'dgo'", "'b.jpg'", "did you mean 'dog'"),
        lambda f: f.label(("a.jpg", "cat"), ("b.jpg", "dgo")),
    ),
    Case(
        "image without labels",
        "train_net.py",
        _train(),
        ("'b.jpg'", "no labels", "labels.csv"),
        lambda f: f.label(("a.jpg", "cat"), ("b.jpg", "")),
    ),
    Case(
        "unknown training set",
        "train_net.py",
        _train("DATASETS.TRAIN", "('own_tarin',)"),
        ("'own_tarin'", "not registered", "DATASETS.TRAIN"),
    ),
    Case(
        "unknown test set: found before training",
        "train_net.py",
        _train("DATASETS.TEST", "('own_tset',)", "SOLVER.MAX_ITER", "100000"),
        ("'own_tset'", "not registered"),
    ),
    Case(
        "unknown training set of a detector",
        "train_net.py",
        _detector("DATASETS.TRAIN", "('pseudo_lables',)"),
        ("'pseudo_lables'", "not registered"),
    ),
    Case(
        "unknown dataset to label",
        "make_pseudo_labels.py",
        _make_labels("PSEUDO_LABELS.DATASET", "own_tset"),
        ("'own_tset'", "not registered"),
    ),
    Case(
        "no training set",
        "train_net.py",
        lambda f: ["OUTPUT_DIR", f.root / "output"],
        ("DATASETS.TRAIN", "empty"),
    ),
    Case(
        "missing file of pseudo labels",
        "train_net.py",
        _detector(),
        ("{root}/pseudo.json", "is missing"),
    ),
    Case(
        "damaged file of pseudo labels",
        "train_net.py",
        _detector(),
        ("{root}/pseudo.json", "COCO"),
        _write("pseudo.json", b'{"images": ['),
    ),
    Case(
        "pseudo labels without any mask",
        "train_net.py",
        _detector(),
        ("no instance", "PEAK_THRESHOLD"),
        lambda f: f.write_instances(empty=True),
    ),
    Case(
        "unknown source of the pseudo labels' images",
        "train_net.py",
        _detector("DATASETS.PSEUDO.IMAGE_ROOT", "", "DATASETS.PSEUDO.SOURCE", "own_tset"),
        ("'own_tset'", "DATASETS.PSEUDO.SOURCE"),
        lambda f: f.write_instances(),
    ),
    # -- proposals
    *(
        Case(
            f"proposals missing for an image: {source}",
            "make_pseudo_labels.py",
            _make_labels("PROPOSALS.SOURCE", source, "PROPOSALS.PATH", "{root}/" + path),
            ("no proposals for image {root}/images/a.jpg",),
            _write(path + ("" if source == "coco_json" else "/other.txt"), b"[]"),
        )
        for source, path in (("mat", "mat"), ("sam", "sam"), ("coco_json", "p.json"))
    ),
    *(
        Case(
            f"proposals missing altogether: {source}",
            "make_pseudo_labels.py",
            _make_labels("PROPOSALS.SOURCE", source, "PROPOSALS.PATH", "{root}/none"),
            ("{root}/none", "PROPOSALS.PATH"),
        )
        for source in ("mat", "sam", "coco_json")
    ),
    Case(
        "proposals where nothing can be written",
        "make_pseudo_labels.py",
        _make_labels("PROPOSALS.PATH", "{root}/file/proposals"),
        ("{root}/file/proposals", "PROPOSALS.PATH"),
    ),
    Case(
        "unknown source of proposals",
        "make_pseudo_labels.py",
        _make_labels("PROPOSALS.SOURCE", "mcg"),
        ("'mcg'", "builtin, coco_json, mat, prompted, sam"),
    ),
    Case(
        "unknown label generator",
        "make_pseudo_labels.py",
        _make_labels("PSEUDO_LABELS.GENERATOR", "WIZE"),
        ("'WIZE'", "SelfTraining, WISE"),
    ),
    # -- checkpoints
    Case(
        "checkpoint of other classes",
        "make_pseudo_labels.py",
        _weights(classes="cat cow dog"),
        ("PRMClassifier_cat_cow_dog/model.pth", "other classes", "3 classes instead of 2"),
    ),
    Case(
        "checkpoint of another method",
        "make_pseudo_labels.py",
        _weights(method="CAMClassifier"),
        ("CAMClassifier_cat_dog/model.pth", "is a CAMClassifier", "PRMClassifier"),
    ),
    Case(
        "checkpoint of another size",
        "make_pseudo_labels.py",
        _make_labels("MODEL.RESNETS.RES2_OUT_CHANNELS", "32"),
        ("PRMClassifier_cat_dog/model.pth", "does not fit the model"),
    ),
    Case(
        "checkpoint of other classes in evaluation",
        "train_net.py",
        lambda f: [
            *("--eval-only", *f.train(), "DATASETS.TEST", "('own_train',)"),
            *("MODEL.WEIGHTS", f.checkpoint(classes="cat cow dog")),
        ],
        ("PRMClassifier_cat_cow_dog/model.pth", "other classes"),
    ),
    Case(
        "nothing to evaluate",
        "train_net.py",
        lambda f: ["--eval-only", *f.train(), "DATASETS.TEST", "('own_train',)"],
        ("MODEL.WEIGHTS is empty", "{root}/output"),
    ),
    Case(
        "missing checkpoint to start from",
        "train_net.py",
        _train("MODEL.WEIGHTS", "{root}/none.pth"),
        ("{root}/none.pth", "does not exist", "MODEL.WEIGHTS"),
    ),
    Case(
        "missing checkpoint to label with",
        "make_pseudo_labels.py",
        _make_labels("MODEL.WEIGHTS", "{root}/none.pth"),
        ("{root}/none.pth", "does not exist", "MODEL.WEIGHTS"),
    ),
    Case(
        "no checkpoint to label with",
        "make_pseudo_labels.py",
        _make_labels("MODEL.WEIGHTS", ""),
        ("MODEL.WEIGHTS is empty",),
    ),
    Case(
        "truncated checkpoint",
        "make_pseudo_labels.py",
        _make_labels("MODEL.WEIGHTS", "{root}/damaged.pth"),
        ("{root}/damaged.pth", "cannot be read as a checkpoint"),
        _truncated_checkpoint,
    ),
    *(
        Case(
            f"file that is no checkpoint: {content[:12]!r}",
            "make_pseudo_labels.py",
            _make_labels("MODEL.WEIGHTS", "{root}/" + name),
            ("{root}/" + name, "checkpoint"),
            _write(name, content),
        )
        for name, content in (
            ("empty.pth", b""),
            ("text.pth", b"<!DOCTYPE html>"),
            ("text.pkl", b"<!DOCTYPE html>"),
            ("list.pkl", b"\x80\x04]\x94."),
            ("number.pkl", b"\x80\x04}\x94\x8c\x05model\x94K\x03s."),
        )
    ),
    # -- outputs, configs, recipes
    Case(
        "training cannot write",
        "train_net.py",
        _train("OUTPUT_DIR", "{root}/file/output"),
        ("{root}/file/output", "not writable"),
    ),
    Case(
        "label generation cannot write",
        "make_pseudo_labels.py",
        lambda f: f.make_labels("file/labels.json"),
        ("{root}/file", "not writable"),
    ),
    Case(
        "labels where a folder is",
        "make_pseudo_labels.py",
        lambda f: f.make_labels("images"),
        ("{root}/images", "is a folder"),
    ),
    Case(
        "recipe cannot write",
        "run_pipeline.py",
        lambda f: f.run_recipe(output="file/output"),
        ("{root}/file/output", "not writable"),
    ),
    Case(
        "Shapes cannot be written",
        "prepare_shapes.py",
        lambda f: ["--output", f.root / "file" / "shapes", "--num-train", 1, "--num-val", 0],
        ("{root}/file/shapes",),
    ),
    Case(
        "metrics cannot be written",
        "evaluate_masks.py",
        lambda f: [
            *("--gt", f.write_instances(), "--pred", f.write_instances()),
            *("--output", f.root / "file" / "metrics.json"),
        ],
        ("{root}/file", "not writable"),
    ),
    Case(
        "unknown config key",
        "train_net.py",
        _train("SOLVER.MAX_ITERS", "3"),
        ("SOLVER.MAX_ITERS",),
    ),
    Case(
        "key below a value",
        "train_net.py",
        _train("SOLVER.MAX_ITER.X", "3"),
        ("SOLVER.MAX_ITER.X",),
    ),
    *(
        Case(
            f"{key} {value}",
            "train_net.py",
            _train(key, value),
            (f"{key} is {value}", "or more"),
        )
        for key, value in (
            ("SOLVER.MAX_ITER", "0"),
            ("SOLVER.MAX_ITER", "-5"),
            ("SOLVER.IMS_PER_BATCH", "0"),
            ("SOLVER.CHECKPOINT_PERIOD", "0"),
            ("DATALOADER.NUM_WORKERS", "-1"),
        )
    ),
    *(
        Case(
            f"{tool} {' '.join(flags)}",
            tool,
            lambda f, tool=tool, flags=flags: [
                *flags,
                *(f.run_recipe() if tool == "run_pipeline.py" else f.train()),
            ],
            (says,),
        )
        for tool in ("train_net.py", "run_pipeline.py")
        for flags, says in (
            (("--num-gpus", "0"), "--num-gpus is 0"),
            (("--num-gpus", "-2"), "--num-gpus is -2"),
            (("--num-machines", "0"), "--num-machines is 0"),
            (("--machine-rank", "5"), "--machine-rank is 5, but"),
            (("--machine-rank", "-1"), "--machine-rank is -1, but"),
        )
    ),
    Case(
        "mistake in the last stage of a recipe: found before the first one runs",
        "run_pipeline.py",
        _recipe("report:SOLVER.MAX_ITERS", "3"),
        ("stage 'report'", "SOLVER.MAX_ITERS"),
        _write("output/classifier", b"a file where the first stage's folder would be"),
    ),
    Case(
        "training that diverges",
        "train_net.py",
        _train("SOLVER.BASE_LR", "1e30"),
        ("training diverged: loss_cls nan in iteration", "{root}/images/", "no checkpoint yet"),
    ),
    Case(
        "flag after the config keys",
        "train_net.py",
        _train("--resume"),
        ("--resume", "before"),
    ),
    Case(
        "config value of the wrong type",
        "train_net.py",
        _train("SOLVER.MAX_ITER", "many"),
        ("MAX_ITER", "many"),
    ),
    Case(
        "config key without a value",
        "train_net.py",
        _train("SOLVER.MAX_ITER"),
        ("KEY VALUE", "pairs"),
    ),
    Case(
        "unknown key in a config file",
        "train_net.py",
        lambda f: ["--config-file", f.root / "c.yaml"],
        ("{root}/c.yaml", "SOLVER.MAX_ITERS"),
        _write("c.yaml", b"SOLVER:\n  MAX_ITERS: 3\n"),
    ),
    Case(
        "config file that is not YAML",
        "train_net.py",
        lambda f: ["--config-file", f.root / "c.yaml"],
        ("{root}/c.yaml", "line 2"),
        _write("c.yaml", b"SOLVER:\n  MAX_ITERS: [3\n"),
    ),
    Case(
        "config file without its base",
        "train_net.py",
        lambda f: ["--config-file", f.root / "c.yaml"],
        ("{root}/c.yaml", "{root}/none.yaml"),
        _write("c.yaml", b"_BASE_: none.yaml\n"),
    ),
    Case(
        "missing config file",
        "train_net.py",
        lambda f: ["--config-file", f.root / "none.yaml"],
        ("{root}/none.yaml", "does not exist"),
    ),
    Case(
        "unknown optimizer",
        "train_net.py",
        _train("SOLVER.OPTIMIZER", "Adam"),
        ("SOLVER.OPTIMIZER", "'Adam'"),
    ),
    Case(
        "missing recipe",
        "run_pipeline.py",
        lambda f: f.run_recipe(str(f.root / "none.yaml")),
        ("{root}/none.yaml", "does not exist", "--recipe"),
    ),
    Case(
        "recipe that is a folder",
        "run_pipeline.py",
        lambda f: f.run_recipe(str(f.images)),
        ("{root}/images",),
    ),
    Case(
        "recipe that is not YAML",
        "run_pipeline.py",
        lambda f: f.run_recipe(str(f.root / "r.yaml")),
        ("{root}/r.yaml", "not valid YAML", "line 3"),
        _write("r.yaml", b"title: x\nstages: [\n"),
    ),
    Case(
        "missing config of a recipe",
        "run_pipeline.py",
        lambda f: f.run_recipe(str(f.root / "r.yaml")),
        ("{root}/none.yaml", "does not exist"),
        _write("r.yaml", b"title: x\nstages: [{name: a, run: train, config: none.yaml}]\n"),
    ),
    Case(
        "unknown config key in a recipe",
        "run_pipeline.py",
        _recipe("SOLVER.MAX_ITERS", "3"),
        ("SOLVER.MAX_ITERS",),
    ),
    Case(
        "stage of a recipe cannot write",
        "run_pipeline.py",
        _recipe(),
        ("{root}/output/classifier", "not writable"),
        _write("output/classifier", b"a file"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_clear_sentence(case, folder, tool_in_process):
    case.damage(folder)
    code, stderr = tool_in_process(case.tool, *case.arguments(folder))
    assert_one_sentence(code, stderr, *(says.format(root=folder.root) for says in case.says))


def test_the_log_keeps_the_sentence_without_a_traceback(folder, tool_in_process):
    folder.truncate("b.jpg")
    tool_in_process("train_net.py", *folder.train())
    log = (folder.root / "output" / "log.txt").read_text()
    assert "b.jpg' cannot be read" in log
    assert "Traceback" not in log


def test_finished_images_are_not_lost(folder, tool_in_process):
    """Labelling stops at a damaged image; after it is mended --resume goes on from there."""
    arguments = folder.make_labels()
    output, whole = folder.root / "labels.json", folder.root / "whole.json"
    code, stderr = tool_in_process("make_pseudo_labels.py", *folder.make_labels("whole.json"))
    assert code == 0, stderr

    shutil.copytree(folder.images, folder.root / "kept")
    folder.truncate("c.jpg")
    code, stderr = tool_in_process("make_pseudo_labels.py", *arguments)
    assert_one_sentence(code, stderr, "c.jpg", "--resume")
    assert not output.exists()

    shutil.copy(folder.root / "kept" / "c.jpg", folder / "c.jpg")
    for finished in ("a.jpg", "b.jpg"):  # to read them again would now be an error
        time = (folder / finished).stat().st_mtime_ns
        folder.truncate(finished)
        os.utime(folder / finished, ns=(time, time))  # a newer file would be another image
    code, stderr = tool_in_process("make_pseudo_labels.py", "--resume", *arguments)
    assert code == 0, stderr
    assert output.read_bytes() == whole.read_bytes()
    assert len(json.loads(whole.read_text())["annotations"]) >= len(IMAGES)


def test_a_finished_image_that_was_replaced_is_labelled_anew(folder, tool_in_process):
    arguments = folder.make_labels()
    folder.truncate("d.jpg")
    assert tool_in_process("make_pseudo_labels.py", *arguments)[0] == 2
    shutil.copy(folder / "a.jpg", folder / "d.jpg")
    shutil.copy(folder / "b.jpg", folder / "a.jpg")
    code, stderr = tool_in_process("make_pseudo_labels.py", *folder.make_labels("expected.json"))
    assert code == 0, stderr
    code, stderr = tool_in_process("make_pseudo_labels.py", "--resume", *arguments)
    assert code == 0, stderr
    expected = (folder.root / "expected.json").read_bytes()
    assert (folder.root / "labels.json").read_bytes() == expected


def test_finished_images_of_other_labels_are_not_taken_up(folder, tool_in_process):
    """Without its first line, every image of a CSV has another id, and so would its masks."""
    arguments = folder.make_labels()
    folder.truncate("d.jpg")
    code, _ = tool_in_process("make_pseudo_labels.py", *arguments)
    assert code == 2
    folder.label(("b.jpg", "dog"), ("c.jpg", "cat;dog"))
    code, stderr = tool_in_process("make_pseudo_labels.py", *folder.make_labels("expected.json"))
    assert code == 0, stderr
    code, stderr = tool_in_process("make_pseudo_labels.py", "--resume", *arguments)
    assert code == 0, stderr
    expected = (folder.root / "expected.json").read_bytes()
    assert (folder.root / "labels.json").read_bytes() == expected


@pytest.mark.slow
def test_a_stages_own_process_says_it_once_and_other_images_are_done(folder, run_tool):
    config = Path(LABELS).resolve()
    recipe = folder.root / "recipe.yaml"
    recipe.write_text(f"title: x\nstages: [{{name: masks, run: proposals, config: {config}}}]\n")
    folder.truncate("b.jpg")
    path = folder.root / "proposals"
    arguments = (*folder.run_recipe(str(recipe)), "PROPOSALS.PATH", path)
    completed = run_tool("run_pipeline.py", *arguments)
    assert_one_sentence(completed.returncode, completed.stderr, "1 of 4 images", "images/b.jpg")
    assert "Traceback" not in completed.stdout
    assert len(list(path.glob("*.json.gz"))) == 3


@pytest.mark.slow
def test_one_of_two_processes_says_it_and_the_job_ends(folder, run_tool):
    folder.truncate("b.jpg")
    arguments = ("--num-gpus", 2, "--dist-url", "auto", *folder.train())
    completed = run_tool("train_net.py", *arguments)
    assert_one_sentence(completed.returncode, completed.stderr, "images/b.jpg", "cannot be read")
