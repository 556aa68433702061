"""Semantic pseudo labels on disk: what they hold, what survives a kill, and their mIoU."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsis_d2.data.label_maps import write_label_map
from wsis_d2.errors import UserError
from wsis_d2.evaluation import SemSegLabelWriter

NAME = "test_sem_seg_writer"
CLASSES = ["cat", "dog"]
SETTINGS = {"generator": "test", "scales": (1.0, 0.5)}


def register(root, maps):
    """A devkit with these true label maps, {image id: map or None}; returns the dataset dicts."""
    records = [
        {
            "file_name": os.path.join(root, "JPEGImages", f"part{i % 2}", f"{i}.jpg"),
            "image_id": i,
            "height": 6,
            "width": 8,
            "sem_seg_file_name": os.path.join(root, "SegmentationClass", f"{i}.png"),
        }
        for i in maps
    ]
    for record in records:
        if maps[record["image_id"]] is not None:
            write_label_map(record["sem_seg_file_name"], maps[record["image_id"]])
    for name in (NAME, f"{NAME}_sem_seg"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(NAME).set(
        thing_classes=CLASSES,
        image_root=os.path.join(root, "JPEGImages"),
        devkit_root=os.path.join(root),
    )
    MetadataCatalog.get(f"{NAME}_sem_seg").set(
        stuff_classes=["background", *CLASSES], ignore_label=255
    )
    return records


@pytest.fixture(autouse=True)
def catalog():
    yield
    for name in (NAME, f"{NAME}_sem_seg"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def label_map(seed, labels=(0, 1, 2)):
    return np.random.default_rng(seed).choice(labels, (6, 8)).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path):
    return register(str(tmp_path / "devkit"), {i: label_map(i) for i in (12, 4, 9)})


def writer(tmp_path, settings=SETTINGS, resume=False):
    return SemSegLabelWriter(NAME, str(tmp_path / "maps"), settings, resume=resume)


def process(evaluator, records):
    for record in records:
        label = label_map(100 + record["image_id"])
        evaluator.process([record], [{"sem_seg_labels": torch.from_numpy(label)}])


def files(tmp_path):
    root = tmp_path / "maps"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_files_are_palette_pngs_named_like_the_images(dataset, tmp_path):
    evaluator = writer(tmp_path)
    process(evaluator, dataset)
    assert set(files(tmp_path)) == {"settings.json", "part0/12.png", "part0/4.png", "part1/9.png"}
    with Image.open(tmp_path / "maps/part1/9.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]  # VOC's first class is dark red
        assert np.array_equal(np.array(image), label_map(109))


def test_arrays_are_taken_too(dataset, tmp_path):
    evaluator = writer(tmp_path)
    evaluator.process(dataset[:1], [{"sem_seg_labels": label_map(1)}])
    assert np.array_equal(np.array(Image.open(tmp_path / "maps/part0/12.png")), label_map(1))


def test_resume_after_a_kill(dataset, tmp_path):
    process(writer(tmp_path), dataset)
    reference = files(tmp_path)
    (tmp_path / "maps/part0/4.png").unlink()  # the run was killed before it was written
    assert writer(tmp_path, resume=False).finished_image_ids() == set()
    evaluator = writer(tmp_path, resume=True)
    assert evaluator.finished_image_ids() == {12, 9}
    process(evaluator, [dataset[1]])
    assert files(tmp_path) == reference


@pytest.mark.parametrize("resume", [False, True])
def test_label_maps_of_other_settings_are_removed(dataset, tmp_path, resume):
    process(writer(tmp_path), dataset)
    (tmp_path / "maps/notes.txt").write_text("mine")
    evaluator = writer(tmp_path, {**SETTINGS, "scales": (1.0,)}, resume)
    assert evaluator.finished_image_ids() == set()
    assert set(files(tmp_path)) == {"settings.json", "notes.txt"}
    assert json.loads(files(tmp_path)["settings.json"])["scales"] == [1.0]


def test_label_maps_of_another_origin_are_left_alone(dataset, tmp_path):
    write_label_map(tmp_path / "maps/part0/12.png", label_map(0))
    with pytest.raises(UserError, match="left alone"):
        writer(tmp_path)
    assert set(files(tmp_path)) == {"part0/12.png"}


def test_folder_that_cannot_be_written(dataset, tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(UserError, match="not writable"):
        writer(tmp_path)


def test_images_that_would_share_a_label_map(dataset, tmp_path):
    twin = {**dataset[0], "file_name": dataset[0]["file_name"][:-3] + "png", "image_id": 1}
    with pytest.raises(UserError, match=r"12\.jpg' and .*12\.png' have the same name"):
        SemSegLabelWriter(NAME, str(tmp_path / "maps"), SETTINGS, [*dataset, twin])


def test_miou_of_hand_made_maps(tmp_path):
    truth = np.zeros((6, 8), np.uint8)
    truth[:, 4:] = 1  # 24 pixels each
    truth[0] = 255  # ... of which 20 count
    (record,) = register(str(tmp_path / "devkit"), {3: truth})
    prediction = np.zeros((6, 8), np.uint8)
    prediction[:, 6:] = 1
    prediction[5, 7] = 2
    evaluator = writer(tmp_path)
    evaluator.process([record], [{"sem_seg_labels": prediction}])
    result = evaluator.evaluate()["pseudo_sem_seg"]
    # Background: 20 of 30. Cat: 9 of 20. Dog: 0 of 1.
    assert result["IoU-background"] == pytest.approx(100 * 20 / 30)
    assert result["IoU-cat"] == pytest.approx(45)
    assert result["IoU-dog"] == 0
    assert result["mIoU"] == pytest.approx((100 * 20 / 30 + 45) / 3)


def test_only_images_with_a_true_map_count(tmp_path):
    truths = {1: label_map(1), 2: None, 3: label_map(3)}
    records = register(str(tmp_path / "devkit"), truths)
    evaluator = writer(tmp_path)
    for record in records[:2]:  # image 3 was not processed
        evaluator.process([record], [{"sem_seg_labels": label_map(1)}])
    assert evaluator.evaluate()["pseudo_sem_seg"]["mIoU"] == 100


def test_no_truth_no_result(tmp_path):
    records = register(str(tmp_path / "devkit"), {1: None})
    evaluator = writer(tmp_path)
    process(evaluator, records)
    assert evaluator.evaluate() == {}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4))
def test_miou_is_that_of_detectron2(tmp_path_factory, seed, count):
    folder = tmp_path_factory.mktemp("maps")
    # Every class occurs: Detectron2's versions differ about classes that do not.
    truths = {i: label_map(seed + i, (0, 1, 2, 255)) for i in range(count)}
    truths[0][0, :3] = 0, 1, 2
    records = register(str(folder / "devkit"), truths)
    ours, theirs = writer(folder), SemSegEvaluator(f"{NAME}_sem_seg", distributed=False)
    theirs.reset()
    for record in records:
        prediction = torch.from_numpy(label_map(seed + 50 + record["image_id"]))
        ours.process([record], [{"sem_seg_labels": prediction}])
        scores = torch.nn.functional.one_hot(prediction.long(), 3).permute(2, 0, 1)
        theirs.process([record], [{"sem_seg": scores}])
    expected = theirs.evaluate()["sem_seg"]
    result = ours.evaluate()["pseudo_sem_seg"]
    assert set(result) == {"mIoU", "IoU-background", "IoU-cat", "IoU-dog"}
    for key, value in result.items():
        assert value == pytest.approx(expected[key])


def _write_part(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    records = register(f"{folder}/devkit", {i: label_map(i) for i in (12, 4, 9)})
    evaluator = SemSegLabelWriter(NAME, f"{folder}/maps", SETTINGS, resume=True)
    finished = evaluator.finished_image_ids()
    assert finished == {9}
    process(evaluator, [r for r in records[rank::2] if r["image_id"] not in finished])
    result = evaluator.evaluate()
    assert bool(result) == (rank == 0)
    if rank == 0:
        with open(f"{folder}/result.json", "w") as file:
            json.dump(result, file)
    dist.destroy_process_group()


def test_two_processes_write_what_one_does(dataset, tmp_path):
    single = writer(tmp_path)
    process(single, dataset)
    expected, reference = single.evaluate(), files(tmp_path)
    for name in ("12.png", "4.png"):
        (tmp_path / "maps/part0" / name).unlink()
    mp.start_processes(_write_part, (str(tmp_path),), nprocs=2, start_method="fork")
    assert files(tmp_path) == reference
    assert json.loads((tmp_path / "result.json").read_text()) == expected
