"""Files of pseudo labels are combined: by the tool on the tiny Shapes, and as a stage."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from wsis_d2.data import ground_truth_json, register_builtin_datasets
from wsis_d2.engine import combine_labels, load_config
from wsis_d2.engine.stages import STAGE_KINDS
from wsis_d2.errors import UserError
from wsis_d2.evaluation import evaluate_mask_files
from wsis_d2.recipes import load_recipe, stage_config
from wsis_d2.structures import decode_mask, encode_mask, mask_iou

DATASET = "shapes_train"
OPTIONS = ("DATASETS.TRAIN", "('shapes_train',)", "MODEL.DEVICE", "cpu")


@pytest.fixture(autouse=True)
def _shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))
    yield
    register_builtin_datasets()


@pytest.fixture
def truth():
    return json.loads(Path(ground_truth_json(DATASET)).read_text())


def _shifted(annotation, pixels):
    mask = np.roll(decode_mask(annotation["segmentation"]), pixels, axis=1)
    return {**annotation, "segmentation": encode_mask(mask)}


def _results(annotations, score):
    keys = ("image_id", "category_id", "segmentation")
    return [{**{key: a[key] for key in keys}, "score": score} for a in annotations]


@pytest.fixture
def files(tmp_path, truth):
    """Two sources: one moves every object by a pixel and invents one per image, the other one has
    every second object, moved the other way, and no info."""
    seen, true = set(), [a for a in truth["annotations"] if not a["iscrowd"]]
    first = [{**_shifted(a, 1), "score": 0.5} for a in true]
    for a in true:
        if a["image_id"] not in seen:
            seen.add(a["image_id"])
            first.append({**_shifted(a, 60), "score": 0.9})
    dataset = {**truth, "info": {"generator": "WISE"}, "annotations": first}
    (tmp_path / "a.json").write_text(json.dumps(dataset))
    (tmp_path / "b.json").write_text(json.dumps(_results([_shifted(a, -1) for a in true[::2]], 7)))
    return [tmp_path / "a.json", tmp_path / "b.json"]


@pytest.fixture
def combine(tmp_path):
    def run(labels, *options, name="out.json"):
        labels = ("AGREEMENT.LABELS", str(tuple(map(str, labels))))
        cfg = load_config("", [*OPTIONS, *labels, *map(str, options)])
        metrics = combine_labels(cfg, str(tmp_path / name))
        return json.loads((tmp_path / name).read_text()), metrics

    return run


def test_the_tool_scores_what_both_files_have_higher(tool_in_process, files, tmp_path, truth):
    output = tmp_path / "made" / "out.json"
    code, stderr = tool_in_process(
        *("combine_labels.py", "--labels", *files, "--output", output, *OPTIONS)
    )
    assert code == 0, stderr
    made = json.loads(output.read_text())
    assert [i["id"] for i in made["images"]] == sorted(i["id"] for i in truth["images"])
    assert made["categories"] == truth["categories"]
    assert made["info"]["generator"] == "Agreement"
    assert sorted(name for name, _ in made["info"]["sources"]) == ["WISE", "predictions"]
    true = {a["image_id"]: [] for a in truth["annotations"]}
    for a in truth["annotations"]:
        true[a["image_id"]].append(a["segmentation"])
    both = json.loads(files[1].read_text())
    agreed, lone = [], []
    for a in made["annotations"]:
        of_second = [b["segmentation"] for b in both if b["image_id"] == a["image_id"]]
        overlap = mask_iou([a["segmentation"]], of_second).max(initial=0)
        (agreed if overlap >= 0.5 else lone).append(a["score"])
    assert min(agreed) > max(lone)
    metrics = json.loads((tmp_path / "made" / "out_metrics.json").read_text())
    assert metrics["combined_labels"]["AP50"] == pytest.approx(
        evaluate_mask_files(ground_truth_json(DATASET), output)[0]["AP50"]
    )
    assert sum(b["count"] for b in metrics["calibration"]["bins"]) == len(made["annotations"])
    assert not list(output.parent.glob(".labels.*"))


def test_the_order_of_the_files_does_not_matter(combine, files):
    first, _ = combine(files)
    second, _ = combine(files[::-1], name="other.json")
    assert first == second


def test_scores_are_fitted_to_some_true_masks(combine, files, tmp_path, truth):
    images = truth["images"][:8]
    ids = {image["id"] for image in images}
    some = [a for a in truth["annotations"] if a["image_id"] in ids]
    (tmp_path / "some.json").write_text(
        json.dumps({**truth, "images": images, "annotations": some})
    )
    by_rule, before = combine(files, name="rule.json")
    fitted, after = combine(files, "AGREEMENT.TRUE_MASKS", tmp_path / "some.json")
    held_out = [a for a in fitted["annotations"] if a["image_id"] not in ids]
    assert sum(b["count"] for b in after["calibration"]["bins"]) == len(held_out)
    assert after["calibration"]["ECE"] < before["calibration"]["ECE"]
    assert after["combined_labels"]["AP50"] >= before["combined_labels"]["AP50"]
    again, _ = combine(
        files, "AGREEMENT.CALIBRATION", tmp_path / "out_calibration.json", name="again.json"
    )
    assert again["annotations"] == fitted["annotations"]
    assert again["info"]["calibration"] == fitted["info"]["calibration"]


def test_a_student_completes_and_only_labelled_classes_count(combine, tmp_path, truth):
    labels = {d["image_id"]: d["image_labels"] for d in DatasetCatalog.get(DATASET)}
    ids = sorted(c["id"] for c in truth["categories"])
    image_id = next(i for i, classes in labels.items() if 0 < len(set(classes)) < len(ids))
    inside = ids[labels[image_id][0]]
    outside = next(c for i, c in enumerate(ids) if i not in labels[image_id])
    mask = next(a for a in truth["annotations"] if a["image_id"] == image_id)
    other = next(a for a in truth["annotations"] if a["image_id"] != image_id)
    predictions = [{**mask, "category_id": c} for c in (inside, outside)]
    (tmp_path / "a.json").write_text(json.dumps(_results([other], 0.5)))
    (tmp_path / "student.json").write_text(json.dumps(_results(predictions, 0.8)))

    def classes_of(made):
        return [a["category_id"] for a in made["annotations"] if a["image_id"] == image_id]

    alone, _ = combine([tmp_path / "a.json"])
    assert classes_of(alone) == []
    completed, _ = combine([tmp_path / "a.json"], "AGREEMENT.STUDENT", tmp_path / "student.json")
    assert classes_of(completed) == [inside]
    assert len(completed["annotations"]) == len(alone["annotations"]) + 1
    both, _ = combine(
        *([tmp_path / "a.json", tmp_path / "student.json"], "AGREEMENT.MIN_SCORE", 0.9),
        *("AGREEMENT.STUDENT", tmp_path / "student.json"),
    )
    assert [a["category_id"] for a in both["annotations"]] == [inside]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 77}, "has the category id 77, which dataset 'shapes_train' does not have"),
        ({"image_id": 12345678}, "has no mask of an image of dataset 'shapes_train'"),
        ({"segmentation": encode_mask(np.ones((5, 7)))}, "of 5 x 7 pixels, the image of 128 x 128"),
        ({"score": float("nan")}, "is not a number"),
        ({"segmentation": {"size": [128, 128], "counts": "0"}}, "is not a mask"),
    ],
)
def test_files_of_other_datasets_are_refused(combine, files, tmp_path, truth, change, message):
    (tmp_path / "c.json").write_text(
        json.dumps([{**result, **change} for result in _results(truth["annotations"][:1], 0.5)])
    )
    with pytest.raises(UserError, match=message):
        combine([*files, tmp_path / "c.json"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "c.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("AGREEMENT.LABELS", "()"), "AGREEMENT.LABELS is empty"),
        (("AGREEMENT.IOU_THRESHOLD", 0.0), "IOU_THRESHOLD is 0.0"),
        (("AGREEMENT.CONTAINMENT", 1.5), "CONTAINMENT is 1.5"),
        (("AGREEMENT.MASK", "mean"), "MASK is 'mean': choose best or vote"),
        (("AGREEMENT.TRUE_MASKS", "a", "AGREEMENT.CALIBRATION", "b"), "are both set"),
        (("AGREEMENT.TRUE_MASKS", "none.json"), "there is no file"),
    ],
)
def test_settings_that_make_no_sense(combine, files, options, message):
    with pytest.raises(UserError, match=message):
        combine(files, *options)


def test_a_file_does_not_agree_with_itself(combine, files, tmp_path):
    (tmp_path / "link.json").symlink_to(files[0])
    with pytest.raises(UserError, match="names a file twice"):
        combine([files[0], tmp_path / "link.json"])


def test_true_masks_of_other_images_fit_nothing(combine, files, tmp_path, truth):
    nothing = {**truth, "images": [], "annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(nothing))
    with pytest.raises(UserError, match="no mask is of an image in AGREEMENT.TRUE_MASKS"):
        combine(files, "AGREEMENT.TRUE_MASKS", tmp_path / "none.json")


def test_a_stage_combines_what_earlier_stages_made(files, tmp_path):
    (tmp_path / "base.yaml").write_text("DATASETS:\n  TRAIN: ('shapes_train',)\n")
    (tmp_path / "recipe.yaml").write_text(
        "title: a test\nstages:\n"
        + "".join(f"  - {{name: {name}, run: pseudo_labels, config: base.yaml}}\n" for name in "ab")
        + "  - name: both\n    run: combine\n    config: base.yaml\n    options:\n"
        + "      AGREEMENT.LABELS: \"('{a}/pseudo_labels.json', '{b}/pseudo_labels.json')\"\n"
    )
    output = tmp_path / "out"
    for name, file in zip("ab", files):
        (output / name).mkdir(parents=True)
        file.rename(output / name / "pseudo_labels.json")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    cfg = stage_config(recipe, recipe.stages[-1], str(output), ["MODEL.DEVICE", "cpu"])
    metrics = STAGE_KINDS["combine"].run(cfg)
    assert metrics["combined_labels"]["AP50"] > 50
    assert json.loads((output / "both" / "pseudo_labels.json").read_text())["annotations"]
