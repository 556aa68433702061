"""tools/make_cams.py and tools/make_seeds.py on the tiny Shapes, with an untrained classifier."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import preserved
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from wsis_d2.data import SHAPES_CLASSES, read_label_map, register_builtin_datasets, semantic_truth
from wsis_d2.engine import WSISCheckpointer, load_config
from wsis_d2.evaluation import confusion_matrix, evaluate_label_maps, seed_metrics
from wsis_d2.labeling import confident_seeds, full_size_cam, read_cam

CONFIG = "configs/shapes/irnet/classifier.yaml"
NUM_IMAGES = 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory, datasets_root):
    register_builtin_datasets(str(datasets_root))
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu"]))
    WSISCheckpointer(
        model, str(folder), meta_architecture="CAMClassifier", classes=SHAPES_CLASSES
    ).save("model")
    return folder / "model.pth"


def _arguments(weights, cams, *options, resume=False):
    return (
        *("--config-file", CONFIG, *["--resume"][: int(resume)]),
        *("MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu", "CAM.PATH", cams),
        *("CAM.SCALES", "(1.0,)", "DATALOADER.NUM_WORKERS", 0, "SEEDS.NUM_WORKERS", 1, *options),
    )


@pytest.fixture
def make_cams(tool_in_process, weights):
    def run(cams, *options, **more):
        return tool_in_process("make_cams.py", *_arguments(weights, cams, *options, **more))

    return run


@pytest.fixture
def make_seeds(tool_in_process, weights):
    def run(cams, seeds, *options, **more):
        options = ("SEEDS.PATH", seeds, "DENSE_CRF.NUM_ITERS", 2, *options)
        return tool_in_process("make_seeds.py", *_arguments(weights, cams, *options, **more))

    return run


@pytest.fixture
def cams(make_cams, tmp_path):
    assert make_cams(tmp_path / "cams")[0] == 0
    return tmp_path / "cams"


@pytest.fixture
def dataset(datasets_root):
    register_builtin_datasets(str(datasets_root))
    return DatasetCatalog.get("shapes_train")


def _contents(folder, extension):
    return {path.name: path.read_bytes() for path in folder.glob(f"*{extension}")}


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_cams_and_their_miou(cams, dataset):
    truth = semantic_truth("shapes_train")
    assert len(_contents(cams, ".npz")) == NUM_IMAGES == len(dataset)

    def label_maps(threshold):
        for d in dataset:
            cam, class_ids = read_cam(cams / f"{Path(d['file_name']).stem}.npz")
            assert class_ids.tolist() == d["image_labels"]
            assert cam.shape == (len(class_ids), 32, 32)
            full = full_size_cam(cam, (128, 128))
            scores = torch.cat([torch.full((1, 128, 128), threshold), full])
            labels = torch.cat([torch.zeros(1, dtype=torch.int64), class_ids + 1])
            yield labels[scores.argmax(0)].numpy(), truth(d)

    metrics = _metrics(cams)["cams"]
    for threshold, miou in (
        (0.15, metrics["mIoU"]),
        (metrics["best threshold"], metrics["best mIoU"]),
    ):
        expected = evaluate_label_maps(label_maps(threshold), SHAPES_CLASSES)["mIoU"]
        assert miou == pytest.approx(expected, abs=0.02)
    assert metrics["best mIoU"] >= metrics["mIoU"]


def test_finished_cams_are_kept(cams, make_cams):
    files = _contents(cams, ".npz")
    missing, marked = sorted(files)[:2]
    (cams / missing).unlink()
    other_cam = files[sorted(files)[2]]
    (cams / marked).write_bytes(other_cam)  # would be another file if it were made again
    make_cams(cams, resume=True)
    assert _contents(cams, ".npz") == {**files, marked: other_cam}


def test_cams_of_other_settings_are_replaced(cams, make_cams):
    files = _contents(cams, ".npz")
    code, stderr = make_cams(cams, "CAM.FLIP", False, resume=True)
    assert code == 2
    assert "holds files of other settings" in stderr
    assert _contents(cams, ".npz") == files
    assert make_cams(cams, "CAM.FLIP", False)[0] == 0
    replaced = _contents(cams, ".npz")
    assert replaced.keys() == files.keys()
    assert not any(replaced[name] == files[name] for name in files)


def test_the_cams_and_seeds_of_a_replaced_image_are_made_again(
    cams, make_cams, make_seeds, dataset, tmp_path
):
    options = ("DENSE_CRF.ENABLED", False)
    seeds = tmp_path / "seeds"
    assert make_seeds(cams, seeds, *options)[0] == 0
    cam_files, seed_files = _contents(cams, ".npz"), _contents(seeds, ".png")
    image, touched = Path(dataset[3]["file_name"]), Path(dataset[5]["file_name"])
    status = os.stat(image)
    marked = {f"{touched.stem}.npz": b"not made again"}
    with preserved(image, touched):
        Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # as copying tools do
        touched.touch()
        (cams / f"{touched.stem}.npz").write_bytes(marked[f"{touched.stem}.npz"])
        assert make_cams(cams)[0] == 2, "the evaluation finds the damage"
        found = _contents(cams, ".npz")
        changed = {name for name in found if found[name] != cam_files[name]}
        assert changed == {f"{image.stem}.npz", *marked}
        assert found[f"{touched.stem}.npz"] == marked[f"{touched.stem}.npz"]

        (cams / f"{touched.stem}.npz").write_bytes(cam_files[f"{touched.stem}.npz"])
        assert make_seeds(cams, seeds, *options)[0] == 0
        found = _contents(seeds, ".png")
        assert {name for name in found if found[name] != seed_files[name]} <= {f"{image.stem}.png"}
        # CAMs that were made again, with other bytes and the same settings, have other seeds.
        (cams / f"{image.stem}.npz").write_bytes(cam_files[f"{image.stem}.npz"])
        (seeds / f"{image.stem}.png").write_bytes(b"stale")
        (seeds / f"{touched.stem}.png").write_bytes(b"not made again")
        assert make_seeds(cams, seeds, *options)[0] == 2, "the evaluation finds the damage"
        assert (seeds / f"{image.stem}.png").read_bytes() != b"stale"
        assert (seeds / f"{touched.stem}.png").read_bytes() == b"not made again"


def test_cams_of_another_version_are_replaced(cams, make_cams):
    settings = json.loads((cams / "settings.json").read_text())
    (cams / "settings.json").write_text(json.dumps({**settings, "version": "wsis_d2 0.0"}))
    files = _contents(cams, ".npz")
    marked = sorted(files)[0]
    (cams / marked).write_bytes(b"of the other version")
    assert make_cams(cams)[0] == 0
    assert _contents(cams, ".npz") == files


def test_files_that_are_not_ours_are_left_alone(make_cams, tmp_path):
    (tmp_path / "own.npz").write_bytes(b"mine")
    code, stderr = make_cams(tmp_path)
    assert code == 2
    assert "not ours and are left alone: choose another CAM.PATH" in stderr
    assert (tmp_path / "own.npz").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "PRMClassifier"], "gives no class activation maps"),
        (["INPUT.IMAGE_LEVEL.RESIZE_TEST", "square"], "RESIZE_TEST is 'square'"),
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["CAM.SCALES", "()"], "CAM.SCALES is ()"),
    ],
)
def test_configs_that_give_no_cams(make_cams, tmp_path, options, message):
    code, stderr = make_cams(tmp_path / "cams", *options)
    assert code == 2
    assert message in stderr


def test_seeds_and_their_metrics(cams, make_seeds, dataset, tmp_path):
    seeds = tmp_path / "seeds"
    assert make_seeds(cams, seeds)[0] == 0
    truth = semantic_truth("shapes_train")
    matrix = 0
    for d in dataset:
        label_map = read_label_map(seeds / f"{Path(d['file_name']).stem}.png")
        assert set(np.unique(label_map)) <= {0, 255, *(c + 1 for c in d["image_labels"])}
        matrix += confusion_matrix(label_map, truth(d), len(SHAPES_CLASSES) + 1)
    assert _metrics(seeds)["seeds"] == pytest.approx(seed_metrics(matrix))

    files = _contents(seeds, ".png")
    missing, marked = sorted(files)[:2]
    (seeds / missing).unlink()
    (seeds / marked).write_bytes(files[sorted(files)[2]])
    assert make_seeds(cams, seeds)[0] == 0
    assert _contents(seeds, ".png") == {**files, marked: files[sorted(files)[2]]}
    # Other settings, or other CAMs, begin afresh.
    assert make_seeds(cams, seeds, "SEEDS.METHOD", "alpha")[0] == 0
    assert _contents(seeds, ".png") != files
    assert len(_contents(seeds, ".png")) == NUM_IMAGES


def test_cams_and_seeds_of_large_images(make_cams, make_seeds, dataset, tmp_path):
    options = ("INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST", 64 * 64, "DENSE_CRF.ENABLED", False)
    cams, seeds = tmp_path / "cams", tmp_path / "seeds"
    assert make_cams(cams, *options)[0] == 0
    assert make_seeds(cams, seeds, *options)[0] == 0
    for d in dataset:
        cam, class_ids = read_cam(cams / f"{Path(d['file_name']).stem}.npz")
        assert cam.shape == (len(class_ids), 32, 32), "the grid of the image as it is on disk"
        small = torch.nn.functional.interpolate(cam[None], (16, 16), mode="bilinear")[0]
        small = full_size_cam(small, (64, 64)).numpy()
        image = np.zeros((64, 64, 3), np.uint8)  # no CRF looks at it
        expected = confident_seeds(image, small, class_ids.numpy(), crf=None)
        label_map = read_label_map(seeds / f"{Path(d['file_name']).stem}.png")
        assert (label_map == expected.repeat(2, 0).repeat(2, 1)).all()
    code, stderr = make_seeds(cams, seeds, *options[2:], resume=True)
    assert code == 2
    assert "files of other settings" in stderr


def test_other_cams_give_other_seeds(cams, make_cams, make_seeds, tmp_path):
    options = ("DENSE_CRF.ENABLED", False)
    assert make_seeds(cams, tmp_path / "seeds", *options)[0] == 0
    files = _contents(tmp_path / "seeds", ".png")
    assert make_cams(cams, "CAM.FLIP", False)[0] == 0
    assert make_seeds(cams, tmp_path / "seeds", *options)[0] == 0
    assert _contents(tmp_path / "seeds", ".png") != files


def test_seeds_without_cams(cams, make_seeds, tmp_path):
    names = sorted(_contents(cams, ".npz"))
    (cams / names[0]).unlink()
    (cams / names[1]).write_bytes(b"damaged")
    code, stderr = make_seeds(cams, tmp_path / "seeds", "DENSE_CRF.ENABLED", False)
    assert code == 2
    assert "2 of 16 images have no seeds, the others are done" in stderr
    assert f"{names[0]}' are missing: make them with tools/make_cams.py" in stderr
    assert f"{names[1]}' cannot be read" in stderr
    assert len(_contents(tmp_path / "seeds", ".png")) == NUM_IMAGES - 2


def test_an_unknown_method_is_one_sentence(cams, make_seeds, tmp_path):
    code, stderr = make_seeds(cams, tmp_path / "seeds", "SEEDS.METHOD", "sure")
    assert code == 2
    assert stderr.splitlines()[-1].startswith("error: SEEDS.METHOD is 'sure'")


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_cams(cams, run_tool, weights, tmp_path):
    arguments = _arguments(weights, tmp_path / "two")
    completed = run_tool("make_cams.py", "--num-gpus", 2, *arguments)
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert _contents(tmp_path / "two", ".npz") == _contents(cams, ".npz")
    assert _metrics(tmp_path / "two") == _metrics(cams)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_seeds(cams, make_seeds, monkeypatch, tmp_path):
    assert make_seeds(cams, tmp_path / "one")[0] == 0
    (cams / sorted(_contents(cams, ".npz"))[0]).write_bytes(b"damaged")
    monkeypatch.setattr("wsis_d2.parallel._MIN_IMAGES_PER_WORKER", 1)
    code, stderr = make_seeds(cams, tmp_path / "two", "SEEDS.NUM_WORKERS", 2)
    assert code == 2
    assert "1 of 16 images have no seeds" in stderr
    one, two = (_contents(tmp_path / name, ".png") for name in ("one", "two"))
    assert len(two) == NUM_IMAGES - 1
    assert two.items() <= one.items()
