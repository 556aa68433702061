"""Points, boxes and masks of some pictures reach the pseudo labels: stage, tool, fingerprints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.structures import BitMasks, Instances
from true_regions import true_maps

from wsis_d2.data import ground_truth_json, register_builtin_datasets
from wsis_d2.engine import load_config
from wsis_d2.engine.stages import make_pseudo_labels
from wsis_d2.engine.stages.files import deciding_config, outside_inputs
from wsis_d2.labeling import LABEL_GENERATOR_REGISTRY, LabelGenerator
from wsis_d2.labeling.prompts import innermost_point
from wsis_d2.structures import decode_mask, mask_box

DATASET = "shapes_train"
OPTIONS = (
    *("DATASETS.TRAIN", "('shapes_train',)", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
    *("PSEUDO_LABELS.GENERATOR", "ClassMasks", "DATASETS.SUPERVISION", "image_labels"),
)


class ClassMasks(LabelGenerator):
    """One mask of all objects of a class."""

    network = None

    def __init__(self, cfg):
        super().__init__()

    def label(self, x):
        _, classes = true_maps(x["file_name"])
        ids = x["image_labels"].tolist()
        masks = torch.from_numpy(np.stack([classes == c for c in ids]))
        instances = Instances(classes.shape, pred_masks=masks, scores=torch.full((len(ids),), 0.5))
        instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
        instances.pred_classes = x["image_labels"]
        return {"instances": instances}


@pytest.fixture(autouse=True)
def _registered(datasets_root):
    register_builtin_datasets(str(datasets_root))
    LABEL_GENERATOR_REGISTRY._do_register("ClassMasks", ClassMasks)
    yield
    del LABEL_GENERATOR_REGISTRY._obj_map["ClassMasks"]


@pytest.fixture
def truth():
    return json.loads(Path(ground_truth_json(DATASET)).read_text())


@pytest.fixture
def write(tmp_path, truth):
    """Writes what a person gives of some pictures, all of them where their number is not given."""

    def run(kind, count=None):
        def given(annotation):
            keys = {key: annotation[key] for key in ("image_id", "category_id")}
            if kind == "masks":
                return {**keys, "segmentation": annotation["segmentation"]}
            if kind == "boxes":
                return {**keys, "bbox": mask_box(annotation["segmentation"])}
            y, x = innermost_point(decode_mask(annotation["segmentation"]))
            return {**keys, "point": [x + 0.5, y + 0.5]}

        images = truth["images"][:count]
        ids = {image["id"] for image in images}
        some = [given(a) for a in truth["annotations"] if a["image_id"] in ids]
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps({**truth, "images": images, "annotations": some}))
        return path

    return run


@pytest.fixture
def label(tmp_path):
    def run(path="", name="out.json"):
        options = (*OPTIONS, "PSEUDO_LABELS.STRONGER_LABELS", str(path))
        metrics = make_pseudo_labels(load_config("", options), str(tmp_path / name))
        return json.loads((tmp_path / name).read_text()), metrics

    return run


def test_the_more_is_given_the_better_the_labels(label, write, truth):
    plain, metrics = label()
    assert "stronger_labels" not in metrics
    assert "STRONGER_LABELS" not in json.dumps(plain["info"])
    assert "given" not in json.dumps(plain["annotations"])
    objects = len(truth["annotations"])
    scores = [metrics["pseudo_labels"]["AP50"]]
    for kind in ("points", "boxes", "masks"):
        made, metrics = label(write(kind), f"{kind}_out.json")
        counts = metrics["stronger_labels"]
        assert counts["images"] == len(truth["images"])
        assert counts[kind] == objects
        assert counts["not used"] == 0
        assert len(made["annotations"]) == objects
        scores.append(metrics["pseudo_labels"]["AP50"])
    assert scores[0] < scores[1] < scores[3] == pytest.approx(100)
    assert scores[0] < scores[2]


def test_other_pictures_stay_as_they_are(label, write, truth):
    plain, _ = label()
    made, metrics = label(write("masks", 4), "some_out.json")
    ids = {image["id"] for image in truth["images"][:4]}

    def others(labels):
        found = [a for a in labels["annotations"] if a["image_id"] not in ids]
        return [{key: a[key] for key in a if key != "id"} for a in found]

    assert metrics["stronger_labels"]["images"] == 4
    assert others(made) == others(plain)
    of_given = [a for a in made["annotations"] if a["image_id"] in ids]
    assert {a["given"] for a in of_given} == {"mask"}
    assert len(made["info"]["stronger_labels_sha256"]) == 64


def test_finished_labels_take_them_by_the_tool(label, write, tool_in_process, tmp_path, truth):
    label()
    output = tmp_path / "tool" / "labels.json"
    code, stderr = tool_in_process(
        *("combine_labels.py", "--labels", tmp_path / "out.json", "--output", output),
        *(*OPTIONS, "PSEUDO_LABELS.STRONGER_LABELS", write("masks")),
    )
    assert code == 0, stderr
    metrics = json.loads((output.parent / "labels_metrics.json").read_text())
    assert metrics["combined_labels"]["AP50"] == pytest.approx(100)
    assert metrics["stronger_labels"]["masks"] == len(truth["annotations"])
    assert "calibration" not in metrics  # of pictures that nothing was given of there are none
    made = json.loads(output.read_text())
    assert {a["given"] for a in made["annotations"]} == {"mask"}
    assert len(made["info"]["stronger_labels_sha256"]) == 64


def test_a_picture_of_another_dataset_is_one_sentence(label, write, tool_in_process, tmp_path):
    label()
    path = write("points")
    path.write_text(path.read_text().replace('.png"', '.gif"').replace('.jpg"', '.gif"'))
    code, stderr = tool_in_process(
        *("combine_labels.py", "--labels", tmp_path / "out.json"),
        *("--output", tmp_path / "o.json", *OPTIONS, "PSEUDO_LABELS.STRONGER_LABELS", path),
    )
    assert code == 2
    assert "is not in dataset 'shapes_train'" in stderr
    assert "Traceback" not in stderr


def test_their_content_decides_not_their_path():
    configs = [
        load_config(
            str(ROOT / "configs/shapes/wise/pseudo_labels.yaml"),
            ["PSEUDO_LABELS.STRONGER_LABELS", path],
        )
        for path in ("", "a.json", "b.json")
    ]
    for kind in ("pseudo_labels", "combine"):
        assert len({deciding_config(cfg, kind).dump() for cfg in configs}) == 1
        assert [outside_inputs(cfg, kind).count("a.json") for cfg in configs] == [0, 1, 0]
