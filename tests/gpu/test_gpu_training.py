"""Every training stage in half precision against full precision, and several processes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from wsis_d2.engine import build_optimizer, launch
from wsis_d2.engine.setup import merged_config
from wsis_d2.engine.train_loop import build_train_loop
from wsis_d2.engine.trainer import Trainer

pytestmark = pytest.mark.gpu

#: One config for each kind of training, in configs/shapes.
STAGES = (
    "irnet/classifier wise/classifier wise_counts/classifier irnet/irnet affinitynet/affinitynet "
    "mask_rcnn_R_50_slim_FPN mask_rcnn_R_50_slim_FPN_noise_aware cascade_mask_rcnn_R_50_slim_FPN "
    "retina_mask_R_50_slim_FPN mask2former_slim sem_seg_R_50_slim_FPN"
).split()
ITERATIONS = 20


def _config(stage, device):
    cfg = merged_config(
        f"{ROOT}/configs/shapes/{stage}.yaml",
        ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, "SOLVER.MAX_ITER", str(ITERATIONS)],
    )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.MASK2FORMER.NUM_CLASSES = 5
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 5
    return cfg


def _image(seed):
    """A bright square of class 2 on a dark ground, with all that any stage may ask for."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(128, 128, dtype=torch.bool)
    y, x = (int(i) for i in torch.randint(8, 72, (2,), generator=generator))
    mask[y : y + 48, x : x + 40] = True
    noise = torch.randint(0, 60, (3, 128, 128), generator=generator)
    instances = Instances((128, 128))
    instances.gt_boxes = Boxes(torch.tensor([[x, y, x + 40, y + 48]], dtype=torch.float32))
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = BitMasks(mask[None])
    return {
        "file_name": f"{seed}.jpg",
        "image": (noise + 150 * mask).to(torch.uint8),
        "height": 128,
        "width": 128,
        "image_labels": torch.tensor([2]),
        "image_counts": torch.tensor([1]),
        "sem_seg": mask.long() * 3,
        "instances": instances,
    }


def _losses(stage, device, mixed_precision):
    """The total loss of each iteration, from the same start on the same images."""
    torch.manual_seed(0)
    cfg = _config(stage, device)
    model = Trainer.build_model(cfg).train()
    batches = [[_image(2 * i), _image(2 * i + 1)] for i in range(ITERATIONS)]
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] *= 0.1  # without pre-trained weights, and without a warm-up
    loop = build_train_loop(model, batches, optimizer, device, mixed_precision)
    with EventStorage() as storage:
        for loop.iter in range(ITERATIONS):
            loop.run_step()
        history = [value for value, _ in storage.history("total_loss").values()]
    assert all(p.isfinite().all() for p in model.parameters())
    return history


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_trains_like_full_precision(device, stage):
    full, half = (_losses(stage, device, mixed) for mixed in (False, True))
    assert all(map(math.isfinite, [*full, *half]))
    assert half[0] == pytest.approx(full[0], rel=0.05, abs=0.02)
    last = slice(-5, None)
    assert sum(half[last]) / 5 == pytest.approx(sum(full[last]) / 5, rel=0.25, abs=0.1)


def _train_a_step(folder, device):
    """All ranks hold the same weights after an iteration on images of their own."""
    rank, where = comm.get_rank(), torch.device(device, comm.get_local_rank())
    total = torch.tensor(rank + 1, device=where)
    dist.all_reduce(total)
    cfg = _config("irnet/irnet", device)
    torch.manual_seed(rank)
    model = torch.nn.parallel.DistributedDataParallel(
        Trainer.build_model(cfg).train(), broadcast_buffers=False
    )
    sum(model([_image(rank)]).values()).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    sums = comm.all_gather(float(gradients.double().sum()))
    (folder / f"rank{rank}").write_text(f"{dist.get_backend()} {int(total)} {len(set(sums))}")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_processes_share_their_gradients(device, tmp_path, num_processes, request):
    if device == "cuda" and torch.cuda.device_count() < num_processes:
        pytest.skip(f"needs {num_processes} GPUs")
    if num_processes == 1:
        request.getfixturevalue("torchrun_alone")  # launch starts no group for one
    launch(_train_a_step, num_processes, args=(tmp_path, device), device=device)
    backend = "nccl" if device == "cuda" else "gloo"
    total = {1: 1, 2: 3}[num_processes]
    for rank in range(num_processes):
        assert (tmp_path / f"rank{rank}").read_text() == f"{backend} {total} 1"
