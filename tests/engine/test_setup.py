"""From the command line's arguments to a config."""

import sys

import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.utils import comm
from PIL import Image

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import launch, load_config, setup
from wsis_d2.errors import UserError
from wsis_d2.folder_lock import unlock_folders


def test_file_then_command_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("VERSION: 2\nSEED: 3\nSOLVER:\n  MAX_ITER: 5\n")
    cfg = load_config(str(path), ["SEED", "4"])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (4, 5)


def test_a_config_that_would_run_code_is_refused(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "config.yaml"
    path.write_text(
        f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:builtins.open ['{trace}', 'w']\n"
    )
    with pytest.raises(UserError, match="config.yaml"):
        load_config(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.MAX_ITERS", "5"], "SOLVER.MAX_ITERS"),
        (["SOLVER.MAX_ITER", "five"], "SOLVER.MAX_ITER"),
    ],
)
def test_unknown_keys_and_values(options, message):
    with pytest.raises(UserError, match=message):
        load_config("", options)


def test_difficult_objects_of_voc_are_a_choice(tmp_path, monkeypatch):
    devkit = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (devkit / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(devkit / "JPEGImages" / "2007_000001.jpg")
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult></object>"
        for name, difficult in (("cat", 0), ("dog", 1))
    )
    (devkit / "Annotations" / "2007_000001.xml").write_text(
        f"<annotation><size><width>8</width><height>6</height></size>{objects}</annotation>"
    )
    (devkit / "ImageSets" / "Main" / "train.txt").write_text("2007_000001\n")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    try:
        counts = []
        for keep in (True, False):
            register_builtin_datasets()
            load_config("", ["DATASETS.KEEP_DIFFICULT", str(keep)])
            (image,) = DatasetCatalog.get("voc_2012_main_train")
            counts.append(len(image["image_labels"]))
        assert counts == [2, 1]
    finally:
        monkeypatch.undo()
        register_builtin_datasets()


OWN_BACKBONE = """
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

@BACKBONE_REGISTRY.register()
class OwnBackbone(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
    def forward(self, image):
        return {}
    def output_shape(self):
        return {"res5": ShapeSpec(channels=7, stride=16)}
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package in the current folder, which is not on the path of a tool."""
    name = f"own_package_{tmp_path.name}".replace("-", "_")
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield name
    sys.modules.pop(name, None)
    BACKBONE_REGISTRY._obj_map.pop("OwnBackbone", None)


def _build_own_backbone(options, folder):
    cfg = load_config("", [*options, "MODEL.DEVICE", "cpu"])
    channels = build_backbone(cfg).output_shape()["res5"].channels
    (folder / f"rank{comm.get_rank()}").write_text(str(channels))


@pytest.mark.parametrize(
    "num_processes", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "spawned"]
)
def test_an_own_backbone_of_a_module_in_imports(own_package, warm_workers, tmp_path, num_processes):
    (tmp_path / own_package / "__init__.py").write_text(OWN_BACKBONE)
    options = ["IMPORTS", f"('{own_package}',)", "MODEL.BACKBONE.NAME", "OwnBackbone"]
    launch(_build_own_backbone, num_processes, dist_url="auto", args=(options, tmp_path))
    for rank in range(num_processes):
        assert (tmp_path / f"rank{rank}").read_text() == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be imported .ModuleNotFoundError: No module named .*PYTHONPATH"),
        ("1 / 0", "cannot be imported .ZeroDivisionError: division by zero"),
        ("import no_such_thing", "No module named 'no_such_thing'"),
    ],
)
def test_imports_that_fail(own_package, tmp_path, text, message):
    if text is None:
        (tmp_path / own_package).rmdir()
    else:
        (tmp_path / own_package / "__init__.py").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config("", ["IMPORTS", f"('{own_package}',)"])
    assert own_package in str(error.value)
    with pytest.raises(UserError, match="IMPORTS"):
        load_config("", ["IMPORTS", own_package])  # a text is no tuple


def test_another_runs_folder_is_left_alone(tmp_path, monkeypatch):
    def lock(folder):
        raise UserError(f"{folder} is in use")

    # wsis_d2.engine.setup is the function; its module has the same name.
    monkeypatch.setattr(sys.modules[setup.__module__], "lock_folder", lock)
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path / "out")])
    with pytest.raises(UserError, match="out is in use"):
        setup(cfg, verbose=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_freed_memory_is_kept_where_a_cpu_computes(device, tmp_path, monkeypatch, fresh_loggers):
    calls = []
    module = sys.modules[setup.__module__]
    monkeypatch.setattr(module, "keep_freed_memory", lambda: calls.append(device))
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path / "out")])
    cfg.MODEL.DEVICE = device
    setup(cfg, verbose=False)
    unlock_folders()
    assert calls == ["cpu"][: device == "cpu"]
