"""The config that a stage left in its folder, after the recipe's output was moved."""

import shutil

import pytest

from wsis_d2.engine import load_config
from wsis_d2.engine.stages.written_config import load_written_config
from wsis_d2.errors import UserError

CONFIG = """
OUTPUT_DIR: {output}/masks
CAM: {{PATH: {output}/cams/maps}}
SEEDS: {{PATH: {output}-2/seeds}}
AGREEMENT: {{LABELS: ['{output}/a/labels.json', /elsewhere/labels.json]}}
"""


def _write(output):
    (output / "masks").mkdir(parents=True)
    (output / "masks" / "config.yaml").write_text(CONFIG.format(output=output))


@pytest.mark.parametrize("name", ["out", "moved"])
def test_paths_below_the_output_folder_are_where_it_is(name, tmp_path):
    _write(tmp_path / "out")
    if name == "moved":
        shutil.move(tmp_path / "out", tmp_path / name)
    cfg = load_written_config(str(tmp_path / name / "masks"))
    paths = [cfg.OUTPUT_DIR, cfg.CAM.PATH, *cfg.AGREEMENT.LABELS, cfg.SEEDS.PATH]
    now = tmp_path / name
    moved = [f"{now}/masks", f"{now}/cams/maps", f"{now}/a/labels.json"]
    others = ["/elsewhere/labels.json", f"{tmp_path}/out-2/seeds"]
    assert paths == moved + others


@pytest.mark.parametrize("content", [None, "[1", "OUTPUT_DIR: [5]", "5"])
def test_no_config_or_a_damaged_one_is_one_sentence(content, tmp_path):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="config.yaml"):
        load_written_config(str(tmp_path))


def test_ones_own_images_are_where_they_are_today(tmp_path):
    keys = "DATASETS: {OWN_TRAIN: {IMAGE_ROOT: /before, LABELS: /before.csv}}\n"
    (tmp_path / "config.yaml").write_text(keys)
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.csv").write_text("file_name,labels\n1.jpg,cat\n")
    places = [f"{tmp_path}/photos", f"{tmp_path}/a.csv"]
    names = ("DATASETS.OWN_TRAIN.IMAGE_ROOT", "DATASETS.OWN_TRAIN.LABELS")
    now = load_config("", [x for pair in zip(names, places) for x in pair])
    own = load_written_config(str(tmp_path), now).DATASETS.OWN_TRAIN
    assert places == [own.IMAGE_ROOT, own.LABELS]
