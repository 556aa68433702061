"""The report of every method, from cues made by hand: no network is trained here."""

import json
import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from wsis_d2.data import (
    dataset_dicts,
    ground_truth_json,
    register_builtin_datasets,
    write_label_map,
)
from wsis_d2.engine import load_config
from wsis_d2.engine.stages import report
from wsis_d2.engine.stages.report import make_report
from wsis_d2.errors import UserError
from wsis_d2.evaluation import reliability_curve
from wsis_d2.files import file_sha256, read_json, write_json, write_text
from wsis_d2.labeling import LOCALIZER_REGISTRY, LocationCues
from wsis_d2.labeling.affinitynet import AffinityNetCues
from wsis_d2.labeling.irnet_walk import IRNetCues, walk_instance_cams
from wsis_d2.report import ReportPanel, Step, headline, tables
from wsis_d2.report.panels import Example, load_true_label_maps, load_true_masks
from wsis_d2.report.steps import (
    LOCALIZERS,
    METHODS,
    PICTURE,
    SECOND_STAGES,
    generator_name,
    method_of,
    second_stage_of,
)
from wsis_d2.visualization import instance_colors

SIDE, CELLS = 128, 32
CLASSES = ("ant", "bee", "cat")
CONFIGS = {"IRNetLabels": "irnet", "AffinityNetLabels": "affinitynet", "WISE": "wise"}


def _instances():
    """A square at the left of class 2, and a worse one at the right of class 0."""
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 32:96, 8:56] = True
    masks[1, 32:96, 72:120] = True
    return Instances(
        (SIDE, SIDE),
        pred_masks=masks,
        scores=torch.tensor([0.9, 0.4]),
        pred_classes=torch.tensor([2, 0]),
    )


def _cam():
    cam = torch.zeros(2, CELLS, CELLS)
    cam[0, 8:24, 18:30] = 0.5  # class 0 at the right
    cam[1, 8:24, 2:14] = 1.0  # class 2 at the left
    return cam


def _irnet_cues(boundary=True, displacement=True) -> IRNetCues:
    x = torch.arange(CELLS, dtype=torch.float32)
    middle = torch.where(x < 16, 7.5, 23.5)
    field = torch.stack([(15.5 - x)[:, None].expand(CELLS, CELLS), (middle - x).expand(CELLS, -1)])
    edges = torch.zeros(CELLS, CELLS)
    edges[:, 15:17] = 0.9
    cam, class_ids = _cam(), torch.tensor([0, 2])
    return walk_instance_cams(
        cam, class_ids, edges if boundary else None, field if displacement else None
    )


def _affinitynet_cues() -> AffinityNetCues:
    features = torch.zeros(6, 16, 16)
    features[0, 4:12, 1:7], features[1, 4:12, 9:15] = 3.0, 3.0
    scores = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    labels[32:96, 8:56] = 3
    return AffinityNetCues(
        torch.rand(2, SIDE, SIDE), torch.tensor([0, 2]), features, scores, scores.sqrt(), labels
    )


def _labels(generator: str) -> dict:
    cues = _affinitynet_cues() if generator == "AffinityNetLabels" else _irnet_cues()
    label_map = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    label_map[40:80, 40:80] = 1
    return {"instances": _instances(), "sem_seg_labels": label_map, "cues": cues}


def _config(generator: str, *options):
    folder = CONFIGS[generator]
    return load_config(str(ROOT / "configs" / "shapes" / folder / "pseudo_labels.yaml"), options)


def _example(generator="IRNetLabels", cues=None, *options, **changes) -> Example:
    labels = _labels(generator)
    arguments = {
        "record": {"file_name": "images/sub/7.jpg", "image_id": 7, "image_labels": [0, 2]},
        "image": np.full((SIDE, SIDE, 3), 90, np.uint8),
        "classes": CLASSES,
        "prediction": {"instances": _instances(), "sem_seg": torch.rand(4, SIDE, SIDE)},
        "labels": {**labels, "cues": cues or labels["cues"]},
        "cfg": _config(generator, *options),
        "image_root": "images",
        **changes,
    }
    return Example(**arguments)


def _panel(title: str, x: Example, generator="IRNetLabels"):
    (step,) = (s for s in METHODS[generator].steps if s.title == title)
    return step.draw(x)


@pytest.mark.parametrize("generator", ["IRNetLabels", "AffinityNetLabels"])
def test_every_step_shows_a_picture_of_its_own(generator, tmp_path):
    write_label_map(tmp_path / "sub" / "7.png", np.eye(SIDE, dtype=np.uint8) * 255)
    x = _example(generator, None, "SEEDS.PATH", str(tmp_path))
    drawings = {step.title: step.draw(x).image for step in METHODS[generator].steps}
    for title, drawing in drawings.items():
        assert drawing.shape == (256, 256, 3), title
        assert drawing.dtype == np.uint8, title
    contents = {drawing.tobytes() for drawing in drawings.values()}
    assert len(contents) == len(drawings)
    for step in METHODS[generator].steps:
        assert step.column.title == step.title
        assert step.column.legend.endswith(".")


def _location_cues() -> LocationCues:
    maps = torch.zeros(2, SIDE, SIDE)
    maps[0, 32:96, 8:56], maps[1, 40:80, 80:110] = 1 / 3072, 1 / 1200
    return LocationCues(
        class_ids=torch.tensor([2, 0]),
        responses=torch.tensor([1.0, 0.5]),
        class_scores=torch.tensor([0.9, 0.4]),
        points=torch.tensor([[64, 30], [60, 95]]),
        response_maps=maps,
        class_response_maps=torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)),
        density_maps=torch.full((3, 16, 16), 1.5 / 256),
    )


@pytest.mark.parametrize("localizer", sorted({*LOCALIZERS, "Foreign"} - {"TextBoxes"}))
def test_steps_of_every_localizer(localizer):
    x = _example("WISE", _location_cues(), "PSEUDO_LABELS.LOCALIZER", localizer)
    steps = method_of(x.cfg).steps
    assert len({step.draw(x).image.tobytes() for step in steps}) == len(steps)
    points = "2 peaks" if localizer in ("PRMPeaks", "DensityPeaks") else "2 points"
    assert [step.draw(x).caption for step in steps[-3:]] == [points, "2 maps", "2 masks"]
    assert generator_name(x.cfg) == f"WISE · {localizer} · BestObjectness"


def test_every_localizer_has_its_steps():
    ours = {name for name, cls in LOCALIZER_REGISTRY if cls.__module__.startswith("wsis_d2")}
    assert set(LOCALIZERS) == ours


@pytest.mark.parametrize("num_labelled", [1, 2])
def test_boxes_with_and_without_a_label(num_labelled):
    boxes = Instances(
        (SIDE, SIDE),
        pred_boxes=Boxes(torch.tensor([[8.0, 32, 56, 96], [72, 32, 120, 96]])),
        scores=torch.tensor([0.9, 0.6]),
        pred_classes=torch.tensor([2, 1]),
        is_labelled=torch.arange(2) < num_labelled,
    )
    labels = {**_labels("WISE"), "cues": _location_cues(), "located_boxes": boxes}
    options = ["PSEUDO_LABELS.LOCALIZER", "TextBoxes"]
    x = _example("WISE", None, *options, labels=labels)
    picture, found, masks = (step.draw(x) for step in method_of(x.cfg).steps)
    captions = {1: "1 box, 1 of classes without a label", 2: "2 boxes"}
    assert found.caption == captions[num_labelled]
    changed = (found.image != picture.image).any(2)[::2, ::2]
    assert changed[40:90, 10:54].all()
    assert changed[40:90, 74:118].all()
    assert not changed[100:].any()
    assert masks.caption == "2 masks"
    x = _example("WISE", None, *options, "PSEUDO_LABELS.GENERATOR", "BoxLabels", labels=labels)
    assert method_of(x.cfg) is METHODS["BoxLabels"]
    assert [step.draw(x).caption for step in method_of(x.cfg).steps][1:] == [found.caption]
    assert generator_name(x.cfg) == "BoxLabels · TextBoxes"


def test_the_density_says_how_many():
    x = _example("WISE", _location_cues(), "PSEUDO_LABELS.LOCALIZER", "DensityPeaks")
    (step,) = (s for s in LOCALIZERS["DensityPeaks"].steps if s.title == "Density")
    assert step.draw(x).caption == "1.5 ant, 1.5 cat"


def test_methods_by_the_generator():
    assert generator_name(_config("IRNetLabels")) == "IRNetLabels"
    assert method_of(_config("IRNetLabels")) is METHODS["IRNetLabels"]
    prm = _config("WISE", "PSEUDO_LABELS.GENERATOR", "PRM")
    assert method_of(prm) is LOCALIZERS["PRMPeaks"]
    assert generator_name(prm) == "PRM · PRMPeaks · PRMScore"


def test_labels_are_written_where_they_were_given():
    assert PICTURE.draw(_example()).caption == "ant, cat"
    assert PICTURE.draw(_example(labels=None, cfg=None)).caption == ""


def test_seeds_are_read_from_the_folder(tmp_path):
    x = _example("IRNetLabels", None, "SEEDS.PATH", str(tmp_path))
    missing = _panel("Seeds", x)
    assert missing.image is None
    assert "SEEDS.PATH" in missing.caption
    seeds = np.zeros((SIDE, SIDE), np.uint8)
    seeds[:32] = 255
    seeds[64:] = 2
    write_label_map(tmp_path / "sub" / "7.png", seeds)
    panel = _panel("Seeds", x)
    assert panel.caption == "25 % unknown"
    assert (panel.image[80:120, 150:] == 90).all()  # background is left as it is
    assert (panel.image[130:] != 90).any(axis=2).all()


def test_an_object_has_one_color_in_all_columns():
    x = _example()
    left, right = instance_colors([int(x.cues.clusters[16, c]) for c in (8, 24)]).astype(int)
    assert (left != right).any()
    masks = _panel("Pseudo masks", x).image
    # Away from the outlines: a blend of the gray picture and the color.
    assert np.abs(masks[128, 64] - (90 + 0.45 * (left - 90))).max() <= 1
    assert np.abs(masks[128, 192] - (90 + 0.45 * (right - 90))).max() <= 1
    cams = _panel("Instance CAMs", x).image.astype(int)
    assert np.abs(cams[128, 64] - left).max() <= 1
    assert np.abs(cams[128, 192] - (27 + 0.5 * (right - 27))).max() <= 1
    walk = _panel("Random walk", x).image
    assert np.argmax(walk[128, 64]) == np.argmax(left)
    assert np.argmax(walk[128, 192]) == np.argmax(right)


def test_masks_take_the_color_of_a_candidate_of_their_class():
    cues = _irnet_cues()
    # A second class, weaker, where the first has its evidence.
    cues.instance_scores = torch.cat([cues.instance_scores, cues.instance_scores[:1] * 0.1])
    cues.instance_cams = torch.cat([cues.instance_cams, cues.instance_cams[:1] * 0.1])
    cues.instance_class_ids = torch.tensor([0, 2, 1])
    x = _example("IRNetLabels", cues)
    x.labels["instances"].pred_classes = torch.tensor([2, 1])
    panel = _panel("Pseudo masks", x)
    color = instance_colors([int(cues.clusters[16, 24])])[0].astype(int)
    assert np.abs(panel.image[128, 192] - (90 + 0.45 * (color - 90))).max() <= 1
    x.labels["instances"] = _instances()[:0]
    assert _panel("Pseudo masks", x).caption == "0 masks"


def test_relations_that_are_not_used_are_not_shown():
    x = _example("IRNetLabels", _irnet_cues(boundary=False, displacement=False))
    for title in ("Class boundaries", "Displacements", "Clusters"):
        panel = _panel(title, x)
        assert panel.image is None
        assert panel.caption == "not used"
    assert _panel("Instance CAMs", x).caption == "2 candidates"
    assert _panel("Random walk", x).image is not None


def test_captions_say_what_the_colors_mean():
    x = _example("IRNetLabels", None, "PSEUDO_LABELS.IRNET.BG_THRESHOLD", "0.4")
    assert _panel("Clusters", x).caption == "2 clusters"
    assert _panel("Random walk", x).caption == "outlined above 0.4"
    longest = re.fullmatch(r"rim of the wheel: ([\d.]+) cells", _panel("Displacements", x).caption)
    assert 15 < float(longest[1]) < np.hypot(15.5, 7.5) + 0.1


def test_semantic_boundaries_are_the_mean_over_the_eight_neighbors():
    x = _example("AffinityNetLabels")
    features = x.cues.features.numpy()
    boundary = np.zeros((16, 16))
    for row, column in product(range(16), range(16)):
        neighbors = [
            features[:, row + dy, column + dx]
            for dy, dx in product((-1, 0, 1), repeat=2)
            if (dy or dx) and 0 <= row + dy < 16 and 0 <= column + dx < 16
        ]
        affinities = [np.exp(-np.abs(features[:, row, column] - f).mean()) for f in neighbors]
        boundary[row, column] = 1 - np.mean(affinities)
    panel = _panel("Semantic boundaries", x, "AffinityNetLabels")
    assert panel.caption == f"highest: {boundary.max():.2f}"
    light = panel.image[8::16, 8::16].mean(2)
    assert np.corrcoef(light.ravel(), boundary.ravel())[0, 1] > 0.95


def test_the_walk_of_affinitynet_is_colored_by_class():
    x = _example("AffinityNetLabels")
    x.cues.scores_after[:] = 0
    x.cues.scores_after[2, :, :8] = 0.2  # the only score there: its share is 1
    x.cues.scores_after[0, :, 8:] = 0.7
    image = _panel("Random walk", x, "AffinityNetLabels").image
    assert (image[128, 20] == instance_colors([2])[0]).all()
    assert (image[128, 230] == 27).all()


def test_second_stage_shows_masks_or_label_maps():
    masks, semantic = SECOND_STAGES["masks"], SECOND_STAGES["sem_seg"]
    truth = [(np.eye(SIDE, dtype=bool), 1)]
    x = _example(truth=truth)
    assert masks.prediction.draw(x).caption == "1 mask of score ≥ 0.5"
    assert masks.truth.draw(x).caption == "1 object"
    assert masks.truth.draw(_example(truth=[])).image is None
    sem_seg = torch.zeros(4, SIDE, SIDE)
    sem_seg[0], sem_seg[3, :64] = 1.0, 2.0
    x = _example(prediction={"sem_seg": sem_seg}, truth=np.zeros((SIDE, SIDE), np.uint8))
    drawing = semantic.prediction.draw(x).image
    assert (drawing[140:, 60:] == 90).all()
    assert np.abs(drawing[60, 128] - (90 + 0.55 * (instance_colors([2])[0] - 90.0))).max() <= 1
    assert (semantic.truth.draw(x).image == 90).all()
    assert semantic.truth.draw(_example(truth=None)).image is None


def test_a_second_stage_of_boxes_alone():
    file = str(ROOT / "configs/shapes/mask_rcnn_R_50_slim_FPN.yaml")
    masks = load_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "5"])
    assert second_stage_of(masks) is SECOND_STAGES["masks"]
    boxes = masks.clone()
    boxes.MODEL.MASK_ON = False
    stage = second_stage_of(boxes)
    assert stage.prediction.title == "Faster R-CNN"
    instances = _instances()
    instances.pred_boxes = Boxes(torch.tensor([[8.0, 32, 56, 96], [72, 32, 120, 96]]))
    of_masks = stage.prediction.draw(_example(prediction={"instances": instances}))
    instances.remove("pred_masks")
    of_boxes = stage.prediction.draw(_example(prediction={"instances": instances}))
    assert of_boxes.caption == "1 box of score ≥ 0.5"
    assert (of_boxes.image == of_masks.image).all()
    labels = load_config(str(ROOT / "configs/shapes/wise/classifier.yaml"))
    assert second_stage_of(labels) is None


def test_truths_of_a_dataset(datasets_root):
    register_builtin_datasets(str(datasets_root))
    d = dataset_dicts("shapes_val")[0]
    masks = load_true_masks("shapes_val")(d)
    label_map = load_true_label_maps("shapes_val")(d)
    assert masks
    for mask, class_id in masks:
        assert mask.shape == (d["height"], d["width"])
        assert (label_map[mask] == class_id + 1).mean() > 0.5
    assert ((label_map > 0) == np.any([m for m, _ in masks], axis=0)).all()
    stock = dataset_dicts("shapes_val_sem_seg")[0]
    assert (load_true_label_maps("shapes_val_sem_seg")(stock) == label_map).all()


RESULTS = {
    "classifier": {"seconds": 3.0, "metrics": {"classification": {"mAP": 98.0}}},
    "cams": {
        "seconds": 2.0,
        "metrics": {"cams": {"mIoU": 41.0, "best mIoU": 43.5, "best threshold": 0.2}},
    },
    "seeds": {"metrics": {"seeds": {"mIoU": 80.0, "fg precision": 97.0, "unknown": 30.0}}},
    "pseudo_labels": {
        "metrics": {"pseudo_labels": {"AP50": 33.0}, "pseudo_sem_seg": {"mIoU": 55.0}}
    },
    "sem_seg": {"metrics": {"sem_seg": {"mIoU": 57.0, "fwIoU": 80.0}}},
    "report": {},
}


def test_headline_and_tables_have_what_was_measured():
    assert headline(RESULTS) == [
        ("Classifier, mAP", "mAP", 98.0),
        ("CAMs, mIoU", "mIoU", 41.0),
        ("Seeds, mIoU", "mIoU", 80.0),
        ("Semantic labels, mIoU", "mIoU", 55.0),
        ("Pseudo masks, AP50", "AP50", 33.0),
        ("Segmentation network, mIoU", "mIoU", 57.0),
    ]
    by_title = {table.title: table for table in tables(RESULTS)}
    assert by_title["Semantic label maps, percent"].rows == [
        ("CAMs (training images)", 41.0, 43.5),
        ("Seeds (their known pixels)", 80.0, None),
        ("Semantic labels (training images)", 55.0, None),
        ("Segmentation network (held-out images)", 57.0, None),
    ]
    assert by_title["Seeds, percent of pixels"].rows == [("Seeds", 97.0, None, None, 30.0)]
    assert "Where labels and detector disagree" not in by_title
    assert by_title["Time, seconds"].rows[:2] == [("classifier", 3.0), ("cams", 2.0)]
    only_masks = {k: RESULTS[k] for k in ("classifier", "report")}
    assert [table.title for table in tables(only_masks)] == ["Time, seconds"]


def test_the_reliability_curve_is_a_table():
    (empty, full) = reliability_curve([0.5, 1.0], [False, True], num_bins=2)["bins"]
    curve = {"ECE": 25.0, "bins": [empty, full]}
    metrics = {"combined_labels": {"AP50": 40.0}, "calibration": curve}
    results = {**RESULTS, "combine": {"metrics": metrics}}
    assert ("Combined masks, AP50", "AP50", 40.0) in headline(results)
    by_title = {table.title: table for table in tables(results)}
    table = by_title["Reliability of the scores, percent"]
    assert table.rows == [("50 to 100", 2, 75.0, 50.0)]
    assert "error: 25.0 %" in table.note
    assert by_title["Instance masks, percent"].rows[1][0] == "Combined masks (training images)"


def test_labels_without_boxes_and_boxes_without_labels_are_told():
    counts = {"labels": 5, "labels-ant": 2, "labels-bee": 3, "labels without a box": 1}
    counts |= {"labels without a box-ant": 0, "labels without a box-bee": 1, "boxes": 9}
    counts |= {"boxes-ant": 3, "boxes-bee": 6}
    (table,) = label_tables({"pseudo_labels": {"metrics": {"label_noise": counts}}})
    rows = [("All classes", 5, 1, 9, None), ("ant", 2, 0, 3, None), ("bee", 3, 1, 6, None)]
    assert table.rows == rows
    counts["boxes without a label"], counts["boxes without a label-bee"] = 4, 4
    (table,) = label_tables({"pseudo_labels": {"metrics": {"label_noise": counts}}})
    assert [row[-1] for row in table.rows] == [4, None, 4]


def test_stronger_labels_are_counted():
    counts = {"images": 4, "masks": 1, "boxes": 5, "points": 3, "ellipses": 2}
    results = {"pseudo_labels": {"metrics": {"stronger_labels": counts}}}
    (table,) = [table for table in tables(results) if "Stronger" in table.title]
    assert table.rows == [(4, 1, 5, 3, 2, None)]


def label_tables(results):
    return [table for table in tables(results) if "disagree" in table.title]


class _Generator:
    def __init__(self, labels: dict):
        self.labels = labels

    def __call__(self, inputs: list[dict]) -> list[dict]:
        return [self.labels for _ in inputs]


def _write_configs(folder, generator: str, supervision: str, test: str):
    labels, detector = folder / "labels", folder / "detector"
    for path in (labels, detector):
        path.mkdir()
    (folder / "weights").write_bytes(b"weights")
    cfg = _config(generator, "MODEL.WEIGHTS", str(folder / "weights"))
    (labels / "config.yaml").write_text(cfg.dump())
    cfg.DATASETS.SUPERVISION, cfg.DATASETS.TEST = supervision, (test,)
    (detector / "config.yaml").write_text(cfg.dump())
    return str(labels), str(detector)


@pytest.mark.parametrize(
    ("generator", "supervision", "test", "network"),
    [
        ("IRNetLabels", "masks", "shapes_val", "Mask R-CNN"),
        ("AffinityNetLabels", "sem_seg", "shapes_val_sem_seg", "Segmentation network"),
    ],
)
def test_report_of_a_method(
    generator, supervision, test, network, datasets_root, tmp_path, monkeypatch
):
    register_builtin_datasets(str(datasets_root))
    folders = _write_configs(tmp_path, generator, supervision, test)
    prediction = {"instances": _instances(), "sem_seg": torch.zeros(6, SIDE, SIDE)}
    monkeypatch.setattr(report, "load_label_generator", lambda *_: _Generator(_labels(generator)))
    monkeypatch.setattr(report, "_predictor", lambda cfg: lambda d: prediction)
    make_report(str(tmp_path / "r.html"), f"{generator} & more", RESULTS, *folders, count=2)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    steps = METHODS[generator].steps
    for title in [step.title for step in steps] + [network, "Ground truth"]:
        assert html.count(f'<p class="step">{title}</p>') >= 2, title
    assert f"Held-out images of {test}" in html
    # Two images each: all steps (the seeds are missing) and the outcome; held out: three panels.
    assert html.count("data:image/") == 2 * (len(steps) - 1 + 2) + 2 * 3
    assert f"{METHODS[generator].network} (sha256)" in html
    assert not re.search("https?:", html)
    names = MetadataCatalog.get("shapes_train").thing_classes
    assert any(name in html for name in names)


@pytest.mark.parametrize(("known", "columns"), [([False, False], 1), ([False, True], 2)])
def test_a_gallery_has_truth_where_some_is_known(known, columns):
    def panel(image):
        return ReportPanel("", image)

    picture = np.zeros((2, 2, 3), np.uint8)
    steps = (Step("Picture", "", lambda x: panel(picture)), Step("Truth", "", lambda x: x.panel))
    examples = [SimpleNamespace(name="x", panel=panel(picture if k else None)) for k in known]
    section = report._gallery("title", steps, iter(examples))
    assert len(section.columns) == columns
    assert [len(row.panels) for row in section.rows] == [columns] * 2


def test_report_needs_a_stage_that_learns_from_the_labels(datasets_root, tmp_path):
    register_builtin_datasets(str(datasets_root))
    folders = _write_configs(tmp_path, "IRNetLabels", "seeds", "shapes_val")
    with pytest.raises(UserError, match="learns from seeds"):
        make_report(str(tmp_path / "r.html"), "title", {}, *folders)


def test_report_with_masks_to_be_reviewed(datasets_root, tmp_path, monkeypatch):
    register_builtin_datasets(str(datasets_root))
    labels, detector = _write_configs(tmp_path, "IRNetLabels", "masks", "shapes_val")
    content = read_json(ground_truth_json("shapes_train"))
    kept = content["annotations"][1:]  # one true mask is missed
    write_json(f"{labels}/pseudo_labels.json", {**content, "annotations": kept})
    review = {
        "review": 1,
        "labels_sha256": file_sha256(f"{labels}/pseudo_labels.json"),
        "rejected": [kept[0]["id"]],
    }
    write_json(tmp_path / "review.json", review)
    cfg = load_config(f"{detector}/config.yaml")
    cfg.DATASETS.PSEUDO.JSON = f"{labels}/pseudo_labels.json"
    cfg.DATASETS.PSEUDO.SOURCE = "shapes_train"
    cfg.DATASETS.PSEUDO.REVIEW = str(tmp_path / "review.json")
    write_text(f"{detector}/config.yaml", cfg.dump())
    prediction = {"instances": _instances()}
    generator = _Generator(_labels("IRNetLabels"))
    monkeypatch.setattr(report, "load_label_generator", lambda *_: generator)
    monkeypatch.setattr(report, "_predictor", lambda cfg: lambda d: prediction)

    def sections():
        make_report(str(tmp_path / "r.html"), "title", RESULTS, labels, detector, count=1)
        html = (tmp_path / "r.html").read_text(encoding="utf-8")
        parts = re.split(r'<h2 id="s\d+">', html)[1:]
        return dict(part.split("</h2>", 1) for part in parts)

    found = sections()
    assert list(found) == [
        *("Dataset", "Measurements", "Review", "Failure cases", "Step by step"),
        "Held-out images of shapes_val",
    ]
    assert "16 images were labelled" in found["Dataset"]
    (data,) = re.findall(r'id="review-data">(.*?)</script>', found["Review"], re.DOTALL)
    data = json.loads(data)
    assert len(data["masks"]) == len(kept)
    assert {mask[5][1] for mask in data["masks"]} == {1.0}  # they are the truth
    assert data["done"]["rejected"] == review["rejected"]
    # The worst image is the one with the missed mask.
    names = {image["id"]: image["file_name"] for image in content["images"]}
    first = re.search(r"<h3>(.*?): mean IoU of the true masks (\d+) %", found["Failure cases"])
    assert names[content["annotations"][0]["image_id"]].endswith(first[1])
    assert int(first[2]) < 100
    # A review of other labels is not that of these.
    write_json(tmp_path / "review.json", {**review, "labels_sha256": "0" * 64})
    assert '"done": null' in sections()["Review"]
