"""From the command line's arguments to a config."""

import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import load_config
from wsis_d2.errors import UserError


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
