"""Contour maps of untrained networks on the tiny Shapes, and the proposals that they drive."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, preserved
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from wsis_d2.data import SHAPES_CLASSES, register_builtin_datasets
from wsis_d2.engine import WSISCheckpointer, load_config
from wsis_d2.proposals import read_contours

NUM_IMAGES = 16
CONFIGS = {
    "IRNet": "configs/shapes/irnet/pseudo_labels.yaml",
    "GeneralizedRCNN": "configs/shapes/mask_rcnn_R_50_slim_FPN_true_masks.yaml",
}
SMALL = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "PSEUDO_LABELS.DATASET")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, datasets_root):
    """Checkpoints of an IRNet and of a Mask R-CNN, by their names."""
    register_builtin_datasets(str(datasets_root))
    folder = tmp_path_factory.mktemp("networks")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = build_model(load_config(str(ROOT / config), [*SMALL, "shapes_train"]))
        saver = WSISCheckpointer(model, str(folder), meta_architecture=name, classes=SHAPES_CLASSES)
        saver.save(name)
    return folder


@pytest.fixture
def make_contours(tool_in_process, weights):
    def run(name, folder, *options, resume=False):
        return tool_in_process(
            "make_contours.py",
            *("--config-file", CONFIGS[name], *["--resume"][: int(resume)]),
            *(*SMALL, "shapes_train", "MODEL.WEIGHTS", weights / f"{name}.pth"),
            *("CONTOURS.PATH", folder, "CONTOURS.MIN_SCORE", 0.0, *options),
        )

    return run


def test_boundaries_and_outlines_become_maps(make_contours, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert make_contours("IRNet", first)[0] == 0
    files = sorted(first.glob("*.png"))
    assert len(files) == NUM_IMAGES
    boundary = read_contours(files[0])
    assert boundary.shape == (64, 64), "stride 2"
    assert boundary.std() > 0

    assert make_contours("GeneralizedRCNN", second, "CONTOURS.ADD_TO", first)[0] == 0
    joined = read_contours(second / files[0].name)
    assert joined.shape == (128, 128)
    smooth = np.asarray(Image.fromarray(boundary).resize((128, 128), Image.BILINEAR))
    assert (joined >= smooth - 0.01).all(), "what was a contour stays one"


def test_finished_maps_are_kept(make_contours, tmp_path):
    assert make_contours("IRNet", tmp_path / "maps")[0] == 0
    first, *_, last = sorted((tmp_path / "maps").glob("*.png"))
    content = first.read_bytes()
    first.write_bytes(b"kept")
    last.unlink()
    assert make_contours("IRNet", tmp_path / "maps", resume=True)[0] == 0
    assert first.read_bytes() == b"kept"
    assert last.is_file()
    first.write_bytes(content)
    code, stderr = make_contours(
        "IRNet", tmp_path / "maps", "MODEL.IRNET.TEST_SIZE", 256, resume=True
    )
    assert code == 2
    assert "holds files of other settings" in stderr


def test_an_image_that_was_replaced_has_a_new_map(make_contours, tmp_path):
    image = Path(DatasetCatalog.get("shapes_train")[3]["file_name"])
    assert make_contours("IRNet", tmp_path / "maps")[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "maps").glob("*.png")}
    with preserved(image):
        Image.open(image).transpose(Image.Transpose.ROTATE_90).save(image)
        assert make_contours("IRNet", tmp_path / "maps")[0] == 0
    changed = {n for n, c in before.items() if (tmp_path / "maps" / n).read_bytes() != c}
    assert changed == {f"{image.stem}.png"}


def test_an_earlier_map_that_is_missing(make_contours, tmp_path):
    code, stderr = make_contours("IRNet", tmp_path / "maps", "CONTOURS.ADD_TO", tmp_path / "none")
    assert code == 2
    assert "none/train_000001.png cannot be read" in stderr
    assert "Traceback" not in stderr


def test_a_network_of_another_kind(tool_in_process, weights, tmp_path):
    code, stderr = tool_in_process(
        "make_contours.py",
        *("--config-file", "configs/shapes/irnet/classifier.yaml", *SMALL, "shapes_train"),
        *("MODEL.WEIGHTS", weights / "IRNet.pth", "CONTOURS.PATH", tmp_path / "maps"),
    )
    assert code == 2
    assert stderr.startswith("error: ")


@pytest.mark.slow
def test_a_recipe_of_contours_and_proposals(run_tool, weights, tmp_path):
    recipe = {
        "title": "Contours",
        "stages": [
            {
                "name": "contours",
                "run": "contours",
                "config": str(ROOT / CONFIGS["IRNet"]),
                "options": {
                    "MODEL.WEIGHTS": str(weights / "IRNet.pth"),
                    "CONTOURS.PATH": "{contours}/maps",
                },
            },
            {
                "name": "proposals",
                "run": "proposals",
                "config": str(ROOT / CONFIGS["IRNet"]),
                "options": {
                    "PROPOSALS.PATH": "{proposals}/masks",
                    "PROPOSALS.BUILTIN.CONTOURS": "files",
                    "PROPOSALS.BUILTIN.CONTOUR_PATH": "{contours}/maps",
                },
            },
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = ("--recipe", tmp_path / "recipe.yaml", "--output", tmp_path / "out", *SMALL)
    completed = run_tool("run_pipeline.py", *command, "shapes_train")
    assert completed.returncode == 0, completed.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["contours"]["metrics"] == {"num_images": NUM_IMAGES}
    assert metrics["proposals"]["metrics"]["proposals"]["num_proposals"] > 1
    assert len(list((tmp_path / "out/proposals/masks").glob("*.json.gz"))) == NUM_IMAGES

    completed = run_tool("run_pipeline.py", *command, "shapes_train")
    assert completed.stdout.count("unchanged, skipped") == 2
    # Other contours, other proposals: the old ones are not taken for them.
    completed = run_tool("run_pipeline.py", *command, "shapes_train", "MODEL.IRNET.TEST_SIZE", 256)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count(": running") == 2
