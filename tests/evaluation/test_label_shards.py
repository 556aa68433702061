"""Shards of pseudo labels become the file of an unsharded run, or one sentence says why not."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from wsis_d2.errors import UserError
from wsis_d2.evaluation import (
    LabelShards,
    PseudoLabelFile,
    PseudoLabelWriter,
    ShardLabelWriter,
    shard_file,
)
from wsis_d2.parallel import Shard

NAME = "test_label_shards"
INFO = {"description": "test", "scores": float("nan"), "scales": (1.0, 0.5)}
NUM_IMAGES = 11


@pytest.fixture
def dataset(tmp_path):
    # Neither ids nor sizes in order.
    records = [
        {
            "file_name": str(tmp_path / f"{i}.jpg"),
            "image_id": 5 * i % NUM_IMAGES,
            "height": 9 + 3 * i % 7,
            "width": 12,
        }
        for i in range(NUM_IMAGES)
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["cat", "dog"], image_root=str(tmp_path))
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def label(writer, records):
    writer.reset()
    for d in records:
        rng = np.random.default_rng(d["image_id"])
        n = d["image_id"] % 3
        instances = Instances((d["height"], d["width"]))
        instances.pred_masks = torch.from_numpy(rng.random((n, *instances.image_size)) < 0.5)
        instances.scores = torch.from_numpy(rng.random(n)).float()
        instances.pred_classes = torch.from_numpy(rng.integers(0, 2, n))
        writer.process([d], [{"instances": instances}])
    writer.evaluate()


@pytest.fixture
def make_shard(dataset, tmp_path):
    def run(index, count, info=INFO, fingerprint="f"):
        shard = Shard(index, count)
        images = shard.select(dataset)
        output = str(tmp_path / "labels.json")
        writer = ShardLabelWriter(
            NAME, output, info, shard, dataset_dicts=images, fingerprint=fingerprint
        )
        label(writer, images)
        return tmp_path / f"labels.shard-{index}-of-{count}.jsonl"

    return run


@pytest.fixture
def merge(dataset, tmp_path):
    def run(count):
        path = tmp_path / "labels.json"
        with LabelShards(str(path), count, INFO, "f", dataset) as shards:
            PseudoLabelFile(NAME, str(path), INFO).write(shards.annotations)
        return path.read_bytes()

    return run


@pytest.mark.parametrize("count", [1, 2, 3, NUM_IMAGES + 2])
def test_merged_shards_are_the_file_of_an_unsharded_run(
    count, dataset, make_shard, merge, tmp_path
):
    label(PseudoLabelWriter(NAME, str(tmp_path / "whole.json"), INFO), dataset)
    for index in range(count):
        assert make_shard(index, count).is_file()
    assert merge(count) == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def refused(merge, tmp_path, match):
    with pytest.raises(UserError, match=match) as error:
        merge(3)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "labels.json").exists()


def test_missing_shards(make_shard, merge, tmp_path):
    make_shard(1, 3)
    make_shard(0, 2)  # of another number of shards
    refused(merge, tmp_path, r"2 of 3 shards .* are missing: .* --shard 0/3, 2/3$")


def test_a_shard_of_other_settings(make_shard, merge, tmp_path):
    for index in range(3):
        make_shard(index, 3)
    make_shard(1, 3, info={**INFO, "weights_sha256": "abc"})
    refused(merge, tmp_path, r"shard-1-of-3.jsonl' was made with other weights_sha256: .* 1/3")
    make_shard(1, 3, fingerprint="of other images")
    refused(merge, tmp_path, r"shard-1-of-3.jsonl' was made with other images or image labels")


def test_a_shard_twice(make_shard, merge, tmp_path):
    paths = [make_shard(index, 3) for index in range(3)]
    paths[2].write_bytes(paths[0].read_bytes())
    refused(merge, tmp_path, r"shard-2-of-3.jsonl' holds shard 0/3 in spite of its name")


def test_images_that_are_missing_or_there_twice(make_shard, merge, tmp_path):
    paths = [make_shard(index, 3) for index in range(3)]
    lines = paths[1].read_bytes().splitlines(keepends=True)
    for damaged in (
        lines[:-1],
        [*lines[:-1], lines[-1][:5]],
        [*lines[:2], lines[1], *lines[2:]],
        [*lines, lines[-1]],
        [lines[0], b"\xff\n", *lines[2:]],
    ):
        paths[1].write_bytes(b"".join(damaged))
        refused(merge, tmp_path, r"shard-1-of-3.jsonl' is damaged .*--shard 1/3$")


@pytest.mark.parametrize("content", [b"", b"[1]\n", b"{}\n", b"\xff", b'{"shard": 1, "info": 2}'])
def test_what_is_no_shard(content, make_shard, merge, tmp_path):
    paths = [make_shard(index, 3) for index in range(3)]
    paths[0].write_bytes(content)
    refused(merge, tmp_path, r"shard-0-of-3.jsonl' is no file of a shard")


def test_a_shards_file_says_what_it_holds(make_shard, tmp_path):
    path = make_shard(0, 4)
    assert str(path) == shard_file(str(tmp_path / "labels.json"), Shard(0, 4))
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert header["shard"] == [0, 4]
    assert header["info"] == {"description": "test", "scores": None, "scales": [1.0, 0.5]}
    assert [image_id for image_id, _ in lines] == sorted(image_id for image_id, _ in lines)
