"""The COCO file of pseudo labels: loads everywhere, same bytes from any run."""

import json
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from wsis_d2.errors import UserError
from wsis_d2.evaluation import PseudoLabelWriter

NAME = "test_pseudo_label_writer"
SIZE = (20, 30)
INFO = {"description": "test", "version": "0"}
# Source ids 3, 7, 90 are the contiguous 1, 0, 2: out of order on purpose.
CATEGORIES = {3: 1, 7: 0, 90: 2}
NAMES = ["cat", "bird", "dog"]


@pytest.fixture
def dataset(tmp_path):
    records = [
        {
            "file_name": str(tmp_path / "images" / f"part{i % 2}" / f"{i}.jpg"),
            "image_id": i,
            "height": SIZE[0],
            "width": SIZE[1],
            "image_labels": [0],
        }
        for i in (12, 4, 9, 30, 7)
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id=CATEGORIES,
        image_root=str(tmp_path / "images"),
    )
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def labels(image_id):
    """Instances of an image, the same each time: image_id % 4 of them."""
    rng = np.random.default_rng(image_id)
    n = image_id % 4
    masks = torch.zeros((n, *SIZE), dtype=torch.bool)
    for mask in masks:
        y, x = rng.integers(0, 15, 2)
        mask[y : y + 5, x : x + 12] = (
            torch.from_numpy(rng.random(mask[y : y + 5, x : x + 12].shape)) < 0.8
        )
    instances = Instances(SIZE)
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.zeros(n, 4))
    instances.scores = torch.from_numpy(rng.random(n)).float()
    instances.pred_classes = torch.from_numpy(rng.integers(0, 3, n))
    return instances


def run(writer, records):
    writer.reset()
    for record in records:
        writer.process([record], [{"instances": labels(record["image_id"])}])
    return writer.evaluate()


def test_round_trip_through_pycocotools_and_detectron2(dataset, tmp_path):
    path = str(tmp_path / "out" / "labels.json")
    counts = run(PseudoLabelWriter(NAME, path, INFO), dataset)["pseudo_labels"]
    assert counts == {"images": 5, "images_with_labels": 3, "instances": 6}
    text = (tmp_path / "out" / "labels.json").read_text()
    assert text == json.dumps(json.loads(text)) + "\n", "as json writes it in one piece"
    assert os.listdir(tmp_path / "out") == ["labels.json"]

    coco = COCO(path)
    assert coco.dataset["info"] == INFO
    assert coco.getImgIds() == [4, 7, 9, 12, 30]
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [
        (3, "bird"),
        (7, "cat"),
        (90, "dog"),
    ]
    assert [a["id"] for a in coco.dataset["annotations"]] == [1, 2, 3, 4, 5, 6]
    for image_id in coco.getImgIds():
        truth = labels(image_id)
        annotations = coco.loadAnns(coco.getAnnIds([image_id]))
        assert len(annotations) == len(truth)
        for i, annotation in enumerate(annotations):
            mask = truth.pred_masks[i].numpy()
            assert (coco.annToMask(annotation) == mask).all()
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            assert annotation["score"] == pytest.approx(truth.scores[i].item(), abs=1e-6)
            assert CATEGORIES[annotation["category_id"]] == truth.pred_classes[i]

    root = str(tmp_path / "images")
    register_coco_instances(f"{NAME}_loaded", {}, path, root)
    try:
        records = DatasetCatalog.get(f"{NAME}_loaded")
        assert [r["file_name"] for r in records] == sorted(
            (r["file_name"] for r in dataset), key=lambda p: int(os.path.basename(p)[:-4])
        )
        assert [len(r["annotations"]) for r in records] == [0, 3, 1, 0, 2]
        masks = [a["segmentation"] for r in records for a in r["annotations"]]
        assert all(mask_utils.decode(m).shape == SIZE for m in masks)
        assert MetadataCatalog.get(f"{NAME}_loaded").thing_classes == ["bird", "cat", "dog"]
    finally:
        DatasetCatalog.remove(f"{NAME}_loaded")
        MetadataCatalog.remove(f"{NAME}_loaded")
    assert len(load_coco_json(path, root)) == 5


def test_order_of_images_does_not_change_a_byte(dataset, tmp_path):
    contents = []
    for i, order in enumerate([dataset, dataset[::-1], dataset[2:] + dataset[:2]]):
        path = tmp_path / f"{i}.json"
        run(PseudoLabelWriter(NAME, str(path), INFO), order)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert os.listdir(tmp_path).count("0.json") == 1


def test_low_scores_and_empty_masks_are_dropped(dataset, tmp_path):
    instances = labels(7)
    instances.scores = torch.tensor([0.2, 0.9, 0.95])
    instances.pred_masks[2] = False
    writer = PseudoLabelWriter(NAME, str(tmp_path / "o.json"), INFO, min_score=0.5)
    writer.process([dataset[0]], [{"instances": instances}])
    assert writer.evaluate()["pseudo_labels"]["instances"] == 1
    annotations = json.loads((tmp_path / "o.json").read_text())["annotations"]
    assert [a["score"] for a in annotations] == [0.9]


def test_candidates_are_an_extra_key(dataset, tmp_path):
    path = str(tmp_path / "labels.json")
    writer = PseudoLabelWriter(NAME, path, INFO)
    expected = []
    for record in dataset:
        instances = labels(record["image_id"])
        rle = {"size": list(SIZE), "counts": "0" * record["image_id"]}
        instances.candidates = [
            [{"segmentation": rle, "weight": (i + 1) / 3}] for i in range(len(instances))
        ]
        writer.process([record], [{"instances": instances}])
        candidates = [[{"segmentation": rle, "weight": w}] for w in (0.333333, 0.666667, 1.0)]
        expected += [(record["image_id"], c) for c in candidates[: len(instances)]]
    writer.evaluate()
    annotations = COCO(path).dataset["annotations"]
    found = [(a["image_id"], a["candidates"]) for a in annotations]
    assert found == sorted(expected, key=lambda pair: pair[0])
    # Without them the file is the same but for that key.
    run(PseudoLabelWriter(NAME, path, INFO), dataset)
    rest = [{k: v for k, v in a.items() if k != "candidates"} for a in annotations]
    assert COCO(path).dataset["annotations"] == rest


def test_images_can_be_given(dataset, tmp_path):
    path = tmp_path / "o.json"
    run(PseudoLabelWriter(NAME, str(path), INFO, dataset_dicts=dataset[:2]), dataset[:2])
    assert [i["id"] for i in json.loads(path.read_text())["images"]] == [4, 12]


def partial_writer(tmp_path, resume, fingerprint="a"):
    return PseudoLabelWriter(
        NAME,
        str(tmp_path / "labels.json"),
        INFO,
        partial_dir=str(tmp_path / "partial"),
        fingerprint=fingerprint,
        resume=resume,
    )


def killed_run(tmp_path, records, cut):
    """Label ``records``, then lose the last ``cut`` bytes as a killed process may."""
    writer = partial_writer(tmp_path, resume=False)
    for record in records:
        writer.process([record], [{"instances": labels(record["image_id"])}])
    writer._records.close()
    (path,) = (tmp_path / "partial").iterdir()
    path.write_bytes(path.read_bytes()[: -cut if cut else None])


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_resume_after_a_kill(dataset, tmp_path, cut):
    reference = tmp_path / "reference.json"
    run(PseudoLabelWriter(NAME, str(reference), INFO), dataset)

    killed_run(tmp_path, dataset[:3], cut)
    writer = partial_writer(tmp_path, resume=True)
    finished = writer.finished_image_ids()
    assert finished == ({12, 4, 9} if cut == 0 else {12, 4})
    # A second kill, after one more image, on top of the cut line.
    rest = [r for r in dataset if r["image_id"] not in finished]
    writer.process([rest[0]], [{"instances": labels(rest[0]["image_id"])}])
    writer._records.close()
    writer = partial_writer(tmp_path, resume=True)
    assert writer.finished_image_ids() == finished | {rest[0]["image_id"]}

    run(writer, rest[1:])
    assert (tmp_path / "labels.json").read_bytes() == reference.read_bytes()
    assert not (tmp_path / "partial").exists()


def test_stale_labels_are_not_taken_up(dataset, tmp_path):
    killed_run(tmp_path, dataset[:3], 0)
    stale = dataset[1]["image_id"]
    options = {"partial_dir": str(tmp_path / "partial"), "fingerprint": "a", "resume": True}
    path = tmp_path / "labels.json"
    writer = PseudoLabelWriter(NAME, str(path), INFO, stale={stale}, **options)
    assert writer.finished_image_ids() == {12, 9}
    # Nor by a run after that one.
    writer = PseudoLabelWriter(NAME, str(path), INFO, **options)
    assert writer.finished_image_ids() == {12, 9}


def test_a_kill_between_taking_up_and_removing(dataset, tmp_path):
    killed_run(tmp_path, dataset[:3], 0)
    (path,) = (tmp_path / "partial").iterdir()
    content = path.read_bytes()
    partial_writer(tmp_path, resume=True)
    path.write_bytes(content)  # as if it had not been removed
    writer = partial_writer(tmp_path, resume=True)
    assert writer.finished_image_ids() == {12, 4, 9}
    run(writer, dataset[3:])
    run(PseudoLabelWriter(NAME, str(tmp_path / "expected.json"), INFO), dataset)
    assert (tmp_path / "labels.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_a_second_round_begins_afresh(dataset, tmp_path):
    path = tmp_path / "labels.json"
    writer = PseudoLabelWriter(NAME, str(path), INFO)
    run(writer, dataset)
    whole = path.read_bytes()
    writer.process([dataset[0]], [{"instances": labels(7)}])
    run(writer, dataset)
    assert path.read_bytes() == whole


def test_a_dataset_without_images(dataset, tmp_path):
    path = tmp_path / "labels.json"
    run(PseudoLabelWriter(NAME, str(path), INFO, dataset_dicts=[]), [])
    content = json.loads(path.read_text())
    assert content["images"] == content["annotations"] == []


def test_other_fingerprint_or_no_resume_start_afresh(dataset, tmp_path):
    killed_run(tmp_path, dataset[:3], 0)
    assert partial_writer(tmp_path, resume=True, fingerprint="b").finished_image_ids() == set()
    assert partial_writer(tmp_path, resume=False).finished_image_ids() == set()
    assert partial_writer(tmp_path, resume=True).finished_image_ids() == set()


def test_partial_files_of_several_processes_are_merged(dataset, tmp_path):
    killed_run(tmp_path, dataset[:2], 0)
    (first,) = (tmp_path / "partial").iterdir()
    os.rename(first, str(first).replace("-0.jsonl", "-1.jsonl"))
    writer = partial_writer(tmp_path, resume=True)
    assert writer.finished_image_ids() == {12, 4}
    writer = partial_writer(tmp_path, resume=False)  # begins afresh: the other file goes
    assert list((tmp_path / "partial").iterdir()) == []
    run(writer, dataset)
    assert not (tmp_path / "partial").exists()


def test_other_files_in_the_partial_folder_are_left_alone(dataset, tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "notes.txt").write_text("mine")
    run(partial_writer(tmp_path, resume=False), dataset)
    assert os.listdir(tmp_path / "partial") == ["notes.txt"]


def test_output_that_cannot_be_written_is_found_before_any_work(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not writable"):
        PseudoLabelWriter(NAME, str(tmp_path / "file" / "labels.json"), INFO)
    with pytest.raises(UserError, match="is a folder"):
        PseudoLabelWriter(NAME, str(tmp_path), INFO)
    with pytest.raises(UserError, match="is not writable"):
        PseudoLabelWriter(
            NAME, str(tmp_path / "o.json"), INFO, partial_dir=str(tmp_path / "file" / "partial")
        )
