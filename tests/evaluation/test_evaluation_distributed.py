"""The evaluators in two or three gloo processes give what they give in one."""

import json
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from wsis_d2.engine.launch import leave_process_group
from wsis_d2.evaluation import (
    InstanceMaskEvaluator,
    MultiLabelEvaluator,
    PseudoLabelWriter,
)
from wsis_d2.files import to_json_value, write_json
from wsis_d2.processes import start_method

NAME = "test_evaluation_distributed"
IMAGE_IDS = [3, 1, 8, 5, 2]


def register(folder):
    records = [
        {"file_name": f"{folder}/{i}.jpg", "image_id": i, "height": 12, "width": 14}
        for i in IMAGE_IDS
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(
        thing_classes=["cat", "dog"],
        thing_dataset_id_to_contiguous_id={4: 0, 6: 1},
        image_root=folder,
        gt_json=f"{folder}/gt.json" if os.path.exists(f"{folder}/gt.json") else "",
    )
    return records


def predict(image_id):
    generator = torch.Generator().manual_seed(image_id)
    instances = Instances((12, 14))
    instances.pred_masks = torch.rand(2, 12, 14, generator=generator) < 0.5
    instances.pred_boxes = Boxes(torch.zeros(2, 4))
    # Equal scores: only the order of the images can rank them.
    instances.scores = torch.tensor([0.5, 0.25])
    instances.pred_classes = torch.tensor([image_id % 2, 0])
    return {
        "instances": instances,
        "image_scores": torch.rand(2, generator=generator),
    }


def evaluate(rank, world_size, folder):
    """What one of the processes does; the main one leaves its results in the folder."""
    torch.set_num_threads(1)
    records = register(folder)
    if world_size > 1:
        dist.init_process_group(
            "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )
    writer = PseudoLabelWriter(
        NAME,
        f"{folder}/labels{world_size}.json",
        {"description": "test"},
        partial_dir=f"{folder}/partial",
        resume=True,
    )
    finished = writer.finished_image_ids()
    evaluators = [writer, MultiLabelEvaluator(NAME), InstanceMaskEvaluator(NAME)]
    for record in records[rank::world_size]:
        if record["image_id"] not in finished:
            output = predict(record["image_id"])
            inputs = [{**record, "image_labels": [record["image_id"] % 2]}]
            for evaluator in evaluators:
                evaluator.process(inputs, [output])
    results = [evaluator.evaluate() for evaluator in evaluators]
    if rank == 0:
        write_json(f"{folder}/results{world_size}.json", to_json_value(results))
    else:
        assert not any(results)
    if world_size > 1:
        dist.barrier()
        leave_process_group()
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def write_truth(folder):
    register(folder)
    truth = PseudoLabelWriter(NAME, f"{folder}/truth.json", {})
    for image_id in IMAGE_IDS:
        truth.process([{"image_id": image_id}], [predict(image_id)])
    truth.evaluate()
    os.rename(f"{folder}/truth.json", f"{folder}/gt.json")
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_more_processes_give_what_one_gives(world_size, warm_workers, tmp_path):
    folder = str(tmp_path)
    write_truth(folder)
    evaluate(0, 1, folder)
    mp.start_processes(
        evaluate, (world_size, folder), nprocs=world_size, start_method=start_method()
    )
    labels = [(tmp_path / f"labels{n}.json").read_bytes() for n in (1, world_size)]
    assert labels[0] == labels[1]
    assert len(labels[0]) > 1000
    one, more = (json.loads((tmp_path / f"results{n}.json").read_text()) for n in (1, world_size))
    assert one == more
    assert one[2]["instance_masks"]["AP50"] == pytest.approx(100)
    assert not (tmp_path / "partial").exists()
