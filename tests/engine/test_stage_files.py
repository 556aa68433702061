"""When a stage of a recipe is done, and when it is not."""

import hashlib
import os
import shutil

import pytest
from conftest import preserved
from PIL import Image

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine.stages.files import digest_path, stage_state, write_outputs
from wsis_d2.engine.stages.image_hashes import ImageHashes
from wsis_d2.files import write_json
from wsis_d2.proposals import build_proposal_source
from wsis_d2.recipes import Recipe, Stage, stage_config
from wsis_d2.recipes.run import _read_result

CONFIG = "DATASETS:\n  TRAIN: ('shapes_train',)\nMODEL:\n  DEVICE: cpu\n"


@pytest.fixture
def fingerprint(tmp_path, datasets_root):
    """The fingerprint of a stage with some options, of a recipe of two."""
    register_builtin_datasets(str(datasets_root))
    (tmp_path / "config.yaml").write_text(CONFIG)
    weights = {"MODEL.WEIGHTS": "{first}/model_final.pth"}

    def compute(run, *opts):
        stages = (
            Stage("first", "train", "config.yaml"),
            Stage("second", run, "config.yaml", weights),
        )
        recipe, output = Recipe("A test", stages, str(tmp_path)), str(tmp_path / "out")
        cfg = stage_config(recipe, stages[1], output, [str(o) for o in opts])
        return stage_state(cfg, run, ["first"], output, {"first": "0"}).fingerprint

    yield compute
    register_builtin_datasets()


@pytest.mark.parametrize(
    ("key", "value", "decides"),
    [
        ("MODEL.DEVICE", "cuda", False),
        ("DATALOADER.NUM_WORKERS", 3, False),
        ("DATASETS.PSEUDO.REVIEW", "review.json", False),
        ("SEEDS.NUM_WORKERS", 3, False),
        ("CUDNN_BENCHMARK", True, False),
        ("VIS_PERIOD", 7, False),
        ("SOLVER.CHECKPOINT_PERIOD", 7, False),
        ("TEST.EVAL_PERIOD", 7, False),
        ("PROPOSALS.PROMPTED.PROMPTS_PER_BATCH", 7, False),
        ("SEED", 7, True),
        ("SOLVER.IMS_PER_BATCH", 7, True),
    ],
)
def test_keys_that_decide_the_result(fingerprint, key, value, decides, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # keep the device
    assert (fingerprint("train", key, value) != fingerprint("train")) == decides


@pytest.mark.parametrize(
    ("run", "key", "value", "decides"),
    [
        ("train", "SEEDS.FG_THRESHOLD", 0.7, False),
        ("train", "PSEUDO_LABELS.IRNET.BG_THRESHOLD", 0.7, False),
        ("train", "PROPOSALS.BUILTIN.LONGEST_EDGE", 7, True),
        ("cams", "CAM.FLIP", False, True),
        ("cams", "SEEDS.FG_THRESHOLD", 0.7, False),
        ("cams", "SOLVER.BASE_LR", 0.7, False),
        ("seeds", "SEEDS.FG_THRESHOLD", 0.7, True),
        ("seeds", "DENSE_CRF.ENABLED", False, True),
        ("seeds", "PSEUDO_LABELS.WALK.BETA", 7.0, False),
        ("proposals", "PROPOSALS.BUILTIN.LONGEST_EDGE", 7, True),
        ("proposals", "PSEUDO_LABELS.WALK.BETA", 7.0, False),
        ("pseudo_labels", "SEEDS.FG_THRESHOLD", 0.7, True),
        ("pseudo_labels", "PSEUDO_LABELS.WALK.BETA", 7.0, True),
        ("pseudo_labels", "SOLVER.BASE_LR", 0.7, False),
        ("pseudo_labels", "AGREEMENT.MASK", "best", False),
        ("train", "AGREEMENT.MASK", "best", False),
        ("combine", "AGREEMENT.MASK", "best", True),
        ("combine", "SEEDS.FG_THRESHOLD", 0.7, False),
        ("contours", "CONTOURS.MIN_SCORE", 0.7, True),
        ("contours", "CAM.FLIP", False, False),
        ("train", "CONTOURS.MIN_SCORE", 0.7, False),
        ("train", "REPORT.NUM_EXAMPLES", 7, False),
        ("report", "REPORT.NUM_EXAMPLES", 7, True),
    ],
)
def test_sections_that_decide_nothing_in_a_stage(fingerprint, run, key, value, decides):
    assert (fingerprint(run, key, value) != fingerprint(run)) == decides


@pytest.mark.parametrize(
    ("run", "key", "options"),
    [
        ("train", "MODEL.WEIGHTS", ()),
        ("train", "MODEL.TRANSFORMERS.NAME", ()),
        ("cams", "MODEL.WEIGHTS", ()),
        ("pseudo_labels", "PROPOSALS.PATH", ("PROPOSALS.SOURCE", "coco_json")),
        ("pseudo_labels", "PROPOSALS.PROMPTED.WEIGHTS", ("PROPOSALS.SOURCE", "prompted")),
        ("pseudo_labels", "PSEUDO_LABELS.SELF_TRAINING.OLD_LABELS", ()),
        ("pseudo_labels", "DATASETS.OWN_TRAIN.GT_JSON", ()),
        ("proposals", "PROPOSALS.BUILTIN.CONTOUR_PATH", ("PROPOSALS.BUILTIN.CONTOURS", "files")),
        ("contours", "CONTOURS.ADD_TO", ()),
        ("combine", "AGREEMENT.STUDENT", ()),
        ("combine", "AGREEMENT.TRUE_MASKS", ()),
        ("combine", "AGREEMENT.CALIBRATION", ()),
    ],
)
def test_the_content_of_an_outside_file_counts(fingerprint, tmp_path, run, key, options):
    path = tmp_path / "outside"
    path.write_text("[1]")
    before = fingerprint(run, key, path, *options)
    status = os.stat(path)
    os.utime(path, (1, 1))
    assert fingerprint(run, key, path, *options) == before, "the same bytes"
    path.write_text("[2]")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint(run, key, path, *options) != before


def test_the_files_of_an_outside_folder_count(fingerprint, tmp_path):
    folder = tmp_path / "mcg"
    (folder / "sub").mkdir(parents=True)
    options = ("PROPOSALS.PATH", folder, "PROPOSALS.SOURCE", "mat")
    found = {fingerprint("pseudo_labels", *options)}
    (folder / "sub" / "a.mat").write_text("1")
    found.add(fingerprint("pseudo_labels", *options))
    (folder / "sub" / "a.mat").write_text("22")
    found.add(fingerprint("pseudo_labels", *options))
    assert len(found) == 3
    # What the built-in generator caches is made from images and settings.
    builtin = ("PROPOSALS.PATH", folder)
    before = fingerprint("pseudo_labels", *builtin)
    (folder / "sub" / "a.mat").write_text("333")
    assert fingerprint("pseudo_labels", *builtin) == before


def test_addresses_and_missing_files_stand_for_themselves(tmp_path):
    assert digest_path("detectron2://ImageNetPretrained/MSRA/R-50.pkl").startswith("detectron2://")
    assert digest_path(str(tmp_path / "none")) == digest_path(str(tmp_path / "none"))


def test_a_replaced_image_counts(fingerprint, datasets_root):
    path = sorted((datasets_root / "shapes" / "JPEGImages").iterdir())[0]
    before = fingerprint("cams")
    with preserved(path):
        Image.new("RGB", (128, 128)).save(path, "PNG")
        assert fingerprint("cams") != before
    assert fingerprint("cams") == before


def test_a_dataset_that_was_copied_elsewhere_is_the_same(fingerprint, datasets_root, tmp_path):
    before = fingerprint("cams")
    copy = tmp_path / "scratch" / "shapes"
    shutil.copytree(datasets_root / "shapes", copy, copy_function=shutil.copyfile)
    register_builtin_datasets(str(copy.parent))
    assert fingerprint("cams") == before


def test_labels_and_images_of_ones_own_count_not_their_paths(fingerprint, datasets_root, tmp_path):
    def of(folder, labels):
        own = ("DATASETS.OWN_TRAIN.IMAGE_ROOT", folder, "DATASETS.OWN_TRAIN.LABELS", labels)
        return fingerprint("cams", "DATASETS.TRAIN", "('own_train',)", *own)

    def write(name, text):
        (tmp_path / name).write_text(f"file_name,labels\n{text}")
        return tmp_path / name

    images = datasets_root / "shapes" / "JPEGImages"
    one, two, *_ = sorted(path.name for path in images.iterdir())
    shutil.copytree(images, tmp_path / "photos")
    labels = write("a.csv", f"{one},cat\n{two},dog\n")
    found = of(images, labels)
    assert of(tmp_path / "photos", shutil.copy(labels, tmp_path / "b.csv")) == found
    assert of(images, write("c.csv", f"{one},cat\n{two},cat;dog\n")) != found
    renamed = write("d.csv", f"{one},kitten\n{two},puppy\n")
    assert of(images, renamed) != found, "the label file names the classes"


def test_an_image_is_read_once(tmp_path, monkeypatch):
    image = tmp_path / "a.jpg"
    image.write_bytes(b"1")
    hashes = ImageHashes(str(tmp_path / "hashes.json"))
    found = hashes.of([str(image)])
    hashes.save()
    again = ImageHashes(hashes.file)
    with monkeypatch.context() as patch:
        patch.setattr("wsis_d2.files.file_sha256", lambda _: pytest.fail("read again"))
        assert again.of([str(image)]) == found == [hashlib.sha256(b"1").hexdigest()]
    image.write_bytes(b"22")
    assert again.of([str(image)]) == [hashlib.sha256(b"22").hexdigest()]


@pytest.mark.parametrize("content", ["", "[]", '{"%s": 5}', '{"%s": [1, 2]}', '{"%s": null}'])
def test_damaged_hashes_count_as_none(content, tmp_path):
    image = tmp_path / "a.jpg"
    image.write_bytes(b"1")
    file = tmp_path / "hashes.json"
    file.write_text(content.replace("%s", str(image)))
    assert ImageHashes(str(file)).of([str(image)]) == [hashlib.sha256(b"1").hexdigest()]


def test_results_of_an_earlier_stage_that_was_run_again_count(fingerprint, tmp_path):
    first = tmp_path / "out" / "first"
    write_json(first / "outputs.json", {"sha256": "a", "files": {}})
    before = fingerprint("cams")
    write_json(first / "outputs.json", {"sha256": "b", "files": {}})
    assert fingerprint("cams") != before


@pytest.mark.parametrize(
    ("run", "made"),
    [
        ("train", "model_final.pth"),
        ("cams", "maps/{}.npz"),
        ("seeds", "maps/{}.png"),
        ("contours", "maps/{}.png"),
        ("proposals", "maps/a.json.gz"),
        ("pseudo_labels", "pseudo_labels.json"),
        ("pseudo_labels", "pseudo_labels_sem_seg/{}.png"),
        ("combine", "pseudo_labels.json"),
        ("combine", "pseudo_labels_calibration.json"),
        ("report", "../report.html"),
    ],
)
def test_a_stage_is_done_while_its_outputs_exist(tmp_path, datasets_root, run, made):
    register_builtin_datasets(str(datasets_root))
    image = sorted((datasets_root / "shapes" / "JPEGImages").glob("train*"))[0]
    (tmp_path / "config.yaml").write_text(CONFIG)
    stage, folder = Stage("a", run, "config.yaml"), tmp_path / "out" / "a"
    recipe = Recipe("A test", (stage,), str(tmp_path))
    keys = ("CAM", "SEEDS", "CONTOURS", "PROPOSALS")
    paths = [x for key in keys for x in (f"{key}.PATH", folder / "maps")]
    cfg = stage_config(recipe, stage, str(tmp_path / "out"), [str(x) for x in paths])
    if run == "proposals":
        build_proposal_source(cfg)  # says in its folder how they are made
    # What a stage of this kind always makes.
    for name in ("model_final.pth", "pseudo_labels.json", "../report.html", made):
        path = folder / name.format(image.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"made")
    write_outputs(cfg, run, str(tmp_path / "out"))
    write_json(folder / "stage.json", {"fingerprint": "f", "metrics": {}})
    assert _read_result(str(folder), "f")
    assert not _read_result(str(folder), "g")
    path.write_bytes(b"half")
    assert _read_result(str(folder), "f"), "of the same size"
    path.write_bytes(b"")
    assert not _read_result(str(folder), "f")
    path.unlink()
    assert not _read_result(str(folder), "f")
    register_builtin_datasets()
