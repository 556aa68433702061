"""From labels through an open-vocabulary detector to masks and boxes: coordinates and counts."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks
from random_detectors import MAKERS, save_detector
from true_regions import TrueRegions, true_maps

from wsis_d2.data import dataset_dicts, register_builtin_datasets, replace_dataset
from wsis_d2.data.shapes import SHAPES_CLASSES
from wsis_d2.engine import load_config
from wsis_d2.engine.stages import make_pseudo_labels, merge_pseudo_labels
from wsis_d2.engine.stages.files import outside_inputs
from wsis_d2.engine.supervision import build_supervision
from wsis_d2.files import load_json
from wsis_d2.images import read_image
from wsis_d2.labeling import TEXT_DETECTOR_REGISTRY, TextDetector
from wsis_d2.parallel import Shard
from wsis_d2.proposals import PROMPTABLE_SEGMENTER_REGISTRY

VOC = ROOT.parent / "shared" / "data" / "voc"

#: What the stand-in knows the classes by; of two it knows a synonym alone.
KNOWN = {"ant": 0, "shiny bug": 1, "crab": 2, "whale": 3, "snail": 4}
SYNONYMS = "('beetle: shiny bug, chafer', 'fish: whale')"


class TrueBoxes(TextDetector):
    """Gives the true boxes of what the texts name. It knows an image of Shapes by its pixels."""

    def __init__(self, cfg):
        super().__init__()
        files = [record["file_name"] for record in dataset_dicts("shapes_train")]
        self.files = {read_image(file).tobytes(): file for file in files}
        self.asked = []

    def detect(self, image, texts):
        self.asked.append(texts)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        boxes, labels = true_boxes(self.files[pixels.tobytes()])
        named = torch.tensor([KNOWN.get(text, -1) for text in texts])
        return boxes, 0.9 * (labels[:, None] == named).float()


def true_boxes(file_name):
    """(N, 4) float boxes of an image of Shapes and (N,) class ids."""
    objects, classes = true_maps(file_name)
    masks = torch.from_numpy(np.stack([objects == i for i in range(1, objects.max() + 1)]))
    labels = torch.tensor([int(classes[mask.numpy()].max()) for mask in masks])
    return BitMasks(masks).get_bounding_boxes().tensor, labels


@contextmanager
def registered(name, records, like):
    """A dataset of these records, with the classes and the folder of another one."""
    original = MetadataCatalog.get(like)
    replace_dataset(
        name,
        lambda: records,
        thing_classes=list(original.thing_classes),
        thing_dataset_id_to_contiguous_id=original.thing_dataset_id_to_contiguous_id,
        image_root=original.image_root,
    )
    yield
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def _registered(datasets_root):
    register_builtin_datasets(str(datasets_root))
    TEXT_DETECTOR_REGISTRY._do_register("TrueBoxes", TrueBoxes)
    PROMPTABLE_SEGMENTER_REGISTRY._do_register("TrueRegions", TrueRegions)
    yield
    del TEXT_DETECTOR_REGISTRY._obj_map["TrueBoxes"]
    del PROMPTABLE_SEGMENTER_REGISTRY._obj_map["TrueRegions"]


@pytest.fixture
def mislabelled():
    """Shapes without a label of an image, and with one too many in another: that record, and the
    labels."""
    records = [dict(record) for record in dataset_dicts("shapes_train")]
    changed = next(record for record in records if len(set(record["image_labels"])) > 1)
    dropped, *changed["image_labels"] = changed["image_labels"]
    other = next(
        r for r in records if r is not changed and len(r["image_labels"]) < len(SHAPES_CLASSES)
    )
    added = min({*range(len(SHAPES_CLASSES))} - {*other["image_labels"]})
    other["image_labels"] = [*other["image_labels"], added]
    with registered("mislabelled_shapes", records, like="shapes_train"):
        yield changed, dropped, added


def config(folder, *options, file="Base-TextBoxes.yaml", dataset="shapes_train"):
    return load_config(
        str(ROOT / "configs" / file),
        [
            *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(folder)),
            *("DATASETS.TRAIN", f"('{dataset}',)", "PROPOSALS.MIN_AREA", "0.0"),
            *("PROPOSALS.PROMPTED.SEGMENTER", "TrueRegions", "PROPOSALS.PROMPTED.WEIGHTS", ""),
            *("PSEUDO_LABELS.TEXT_BOXES.DETECTOR", "TrueBoxes"),
            *("PSEUDO_LABELS.TEXT_BOXES.WEIGHTS", ""),
            *("PSEUDO_LABELS.TEXT_BOXES.SYNONYMS", SYNONYMS, *options),
        ],
    )


BOX_LABELS = ("PSEUDO_LABELS.GENERATOR", "BoxLabels", "PROPOSALS.SOURCE", "builtin")


def test_true_boxes_give_true_masks(tmp_path):
    metrics = make_pseudo_labels(config(tmp_path))
    assert metrics["pseudo_labels"]["AP50"] > 95
    assert metrics["pseudo_labels"]["AP75"] > 90
    noise = metrics["label_noise"]
    records = dataset_dicts("shapes_train")
    assert noise["labels"] == sum(len(set(record["image_labels"])) for record in records)
    assert noise["labels without a box"] == 0
    counts = torch.cat([true_boxes(record["file_name"])[1] for record in records]).bincount()
    assert [noise[f"boxes-{name}"] for name in SHAPES_CLASSES] == counts.tolist()
    assert "boxes without a label" not in noise
    info = load_json(tmp_path / "pseudo_labels.json")["info"]
    assert info["texts"]["beetle"] == ["beetle", "shiny bug", "chafer"]
    assert "weights_sha256" not in info


def test_a_class_whose_name_nobody_knows_has_no_box(tmp_path):
    cfg = config(tmp_path, *BOX_LABELS, "PSEUDO_LABELS.TEXT_BOXES.SYNONYMS", "('beetle: bug',)")
    noise = make_pseudo_labels(cfg)["label_noise"]
    for name in SHAPES_CLASSES:
        unknown = name in ("beetle", "fish")
        assert noise[f"labels without a box-{name}"] == unknown * noise[f"labels-{name}"]
        assert (noise[f"boxes-{name}"] == 0) == unknown


def test_wrong_labels_are_counted(tmp_path, mislabelled):
    record, dropped, added = mislabelled
    options = (*BOX_LABELS, "PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES")
    results = {}
    for asked in ("False", "True"):
        cfg = config(tmp_path / asked, *options, asked, dataset="mislabelled_shapes")
        results[asked] = make_pseudo_labels(cfg)["label_noise"]
    noise = results["True"]
    missing = {name: noise[f"labels without a box-{name}"] for name in SHAPES_CLASSES}
    assert missing == {name: int(i == added) for i, name in enumerate(SHAPES_CLASSES)}
    objects = int((true_boxes(record["file_name"])[1] == dropped).sum())
    unlabelled = {name: noise[f"boxes without a label-{name}"] for name in SHAPES_CLASSES}
    assert unlabelled == {name: objects * (i == dropped) for i, name in enumerate(SHAPES_CLASSES)}
    same = {key: n for key, n in noise.items() if not key.startswith("boxes without")}
    assert same == results["False"]
    # Labels do not change where more is asked.
    labels, others = (load_json(tmp_path / a / "pseudo_labels.json") for a in results)
    assert labels["annotations"] == others["annotations"]
    boxes = load_json(tmp_path / "True" / "pseudo_labels_boxes.json")["annotations"]
    assert sum(box["iscrowd"] for box in boxes) == objects


def test_boxes_train_detectron2(tmp_path):
    cfg = config(tmp_path, *BOX_LABELS)
    make_pseudo_labels(cfg)
    for name in ("pseudo_labels.json", "pseudo_labels_boxes.json"):
        student = load_config(
            str(ROOT / "configs/own/faster_rcnn_R_50_FPN.yaml"),
            [
                *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
                *("DATASETS.PSEUDO.SOURCE", "shapes_train", "SOLVER.IMS_PER_BATCH", "2"),
                *("DATASETS.PSEUDO.JSON", str(tmp_path / name), "INPUT.RANDOM_FLIP", "none"),
                *("INPUT.MIN_SIZE_TRAIN", "(128,)"),
            ],
        )
        for x in next(iter(build_supervision(student).train_loader())):
            boxes, labels = true_boxes(x["file_name"])
            found = x["instances"]
            assert not found.has("gt_masks")
            order, true_order = (
                np.lexsort(tensor.numpy().T) for tensor in (found.gt_boxes.tensor, boxes)
            )
            assert torch.equal(found.gt_boxes.tensor[order], boxes[true_order])
            assert torch.equal(found.gt_classes[order], labels[true_order])


def test_shards_give_the_files_of_one_run(tmp_path):
    cfg = config(tmp_path, *BOX_LABELS, "PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES", "True")
    whole, parts = str(tmp_path / "whole.json"), str(tmp_path / "parts.json")
    expected = make_pseudo_labels(cfg, whole)
    for i in range(2):
        assert make_pseudo_labels(cfg, parts, shard=Shard(i, 2)) == {}
    assert merge_pseudo_labels(cfg, parts, 2)["label_noise"] == expected["label_noise"]
    for ending in (".json", "_boxes.json"):
        assert (tmp_path / f"parts{ending}").read_bytes() == (
            tmp_path / f"whole{ending}"
        ).read_bytes()


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    cfg = config(tmp_path, *BOX_LABELS)
    expected = make_pseudo_labels(cfg, str(tmp_path / "whole.json"))
    detect, calls = TrueBoxes.detect, []

    def dying(self, *args):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return detect(self, *args)

    monkeypatch.setattr(TrueBoxes, "detect", dying)
    with pytest.raises(KeyboardInterrupt):
        make_pseudo_labels(cfg)
    assert make_pseudo_labels(cfg, resume=True)["label_noise"] == expected["label_noise"]
    assert len(calls) == 7 + 16 - 6
    for ending in (".json", "_boxes.json"):
        made, whole = tmp_path / f"pseudo_labels{ending}", tmp_path / f"whole{ending}"
        assert made.read_bytes() == whole.read_bytes()


def test_files_that_decide_are_known(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"beetle": ["shiny bug"], "fish": ["whale"]}))
    options = ["PSEUDO_LABELS.TEXT_BOXES.SYNONYMS", f"('{path}',)"]
    options += ["PSEUDO_LABELS.TEXT_BOXES.WEIGHTS", "somewhere"]
    cfg = config(tmp_path, *options)
    assert {str(path), "somewhere"} <= set(outside_inputs(cfg, "pseudo_labels"))
    assert not {str(path), "somewhere"} & set(outside_inputs(cfg, "train"))
    assert make_pseudo_labels(cfg)["label_noise"]["labels without a box"] == 0


@pytest.fixture
def eight_photos():
    register_builtin_datasets(str(VOC))
    records = dataset_dicts("voc_2012_seg_train")[:8]
    with registered("eight_photos", records, like="voc_2012_seg_train"):
        yield records


@pytest.mark.skipif(not (VOC / "VOC2012").is_dir(), reason="no photos beside the repository")
@pytest.mark.parametrize("name", MAKERS)
def test_random_weights_label_eight_photos(name, eight_photos, random_sam, tmp_path):
    detector = save_detector(name, tmp_path)
    options = ("PSEUDO_LABELS.MAX_PEAKS", "4", "PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES", "True")
    options += ("PROPOSALS.PROMPTED.SEGMENTER", "TransformersSAM")
    options += ("PROPOSALS.PROMPTED.WEIGHTS", random_sam)
    options += ("PSEUDO_LABELS.TEXT_BOXES.DETECTOR", "TransformersDetector")
    options += ("PSEUDO_LABELS.TEXT_BOXES.WEIGHTS", detector)
    options += ("PSEUDO_LABELS.TEXT_BOXES.MIN_SCORE", "0.0")
    options += ("PSEUDO_LABELS.TEXT_BOXES.SYNONYMS", "()")
    cfg = config(
        tmp_path,
        *options,
        file="voc/text_boxes/pseudo_labels.yaml",
        dataset="eight_photos",
    )
    noise = make_pseudo_labels(cfg)["label_noise"]
    assert noise["labels"] == sum(len(set(record["image_labels"])) for record in eight_photos)
    labels = load_json(tmp_path / "pseudo_labels.json")
    boxes = load_json(tmp_path / "pseudo_labels_boxes.json")
    assert len(labels["images"]) == 8
    assert labels["annotations"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in boxes["images"]}
    of_images = {record["image_id"]: record["image_labels"] for record in eight_photos}
    for box in boxes["annotations"]:
        x, y, width, height = box["bbox"]
        assert min(x, y) >= 0
        assert x + width <= sizes[box["image_id"]][0] + 0.01
        assert y + height <= sizes[box["image_id"]][1] + 0.01
        # VOC's category ids count from 1.
        assert (box["category_id"] - 1 in of_images[box["image_id"]]) != bool(box["iscrowd"])
    assert detector not in Path(tmp_path / "pseudo_labels.json").read_text()
    assert len(labels["info"]["detector"]) == 64


#: Two iterations of slim networks.
SMALL = (
    "mask_rcnn:MODEL.WEIGHTS '' "
    "MODEL.RESNETS.STEM_OUT_CHANNELS 32 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
    "MODEL.RESNETS.WIDTH_PER_GROUP 16 MODEL.RESNETS.NORM BN MODEL.FPN.OUT_CHANNELS 32 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 32 "
    "MODEL.RPN.POST_NMS_TOPK_TRAIN 50 MODEL.RPN.POST_NMS_TOPK_TEST 20 "
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "
    "TEST.DETECTIONS_PER_IMAGE 3 INPUT.MIN_SIZE_TRAIN (128,) INPUT.MIN_SIZE_TEST 128 "
    "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.001 DATALOADER.NUM_WORKERS 0 "
    "PSEUDO_LABELS.MAX_PEAKS 3 PSEUDO_LABELS.TEXT_BOXES.MIN_SCORE 0.0"
).split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "student"), [("recipe.yaml", "mask_rcnn"), ("recipe_boxes.yaml", "faster_rcnn")]
)
def test_from_labels_to_a_report(recipe, student, datasets_root, run_tool, random_sam, tmp_path):
    rows = [
        f"{Path(r['file_name']).name},{';'.join(SHAPES_CLASSES[c] for c in r['image_labels'])}"
        for r in dataset_dicts("shapes_train")
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,labels", *rows]))
    options = [option.replace("mask_rcnn:", f"{student}:").replace("''", "") for option in SMALL]
    completed = run_tool(
        "run_pipeline.py",
        *("--recipe", f"configs/own/text_boxes/{recipe}", "--output", tmp_path / "output"),
        *("DATASETS.OWN_TRAIN.IMAGE_ROOT", datasets_root / "shapes" / "JPEGImages"),
        *("DATASETS.OWN_TRAIN.LABELS", tmp_path / "labels.csv"),
        *("PSEUDO_LABELS.TEXT_BOXES.WEIGHTS", save_detector("grounding_dino", tmp_path)),
        *("PROPOSALS.PROMPTED.WEIGHTS", random_sam, *options),
        # The student is evaluated too, as far as it can be.
        *(f"{student}:DATASETS.TEST", "('shapes_val',)"),
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    assert (tmp_path / "output" / student / "model_final.pth").is_file()
    metrics = load_json(tmp_path / "output" / "metrics.json")
    assert metrics["pseudo_labels"]["metrics"]["label_noise"]["labels"] > 0
    assert ("instance_masks" in metrics[student]["metrics"]) == (student == "mask_rcnn")
    page = (tmp_path / "output" / "report.html").read_text()
    assert "Where labels and detector disagree" in page
    assert ("Faster R-CNN" in page) == (student == "faster_rcnn")
