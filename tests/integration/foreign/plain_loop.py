"""A user's own training loop, in the manner of Detectron2's tools/plain_train_net.py.

Usage: python plain_loop.py PSEUDO_JSON IMAGES TRUE_JSON TRUE_IMAGES OUTPUT [--resume]

All that it knows of the plugin is its import; the pseudo labels are a COCO JSON like any other.
Prints {"losses": [...], "results": {...}} on its last line.
"""

import json
import logging
import sys

import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, JSONWriter

import wsis_d2  # noqa: F401

SLIM_MASK_RCNN = """
MODEL.DEVICE cpu MODEL.WEIGHTS '' MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM BN
MODEL.RESNETS.STEM_OUT_CHANNELS 16 MODEL.RESNETS.RES2_OUT_CHANNELS 32
MODEL.RESNETS.WIDTH_PER_GROUP 8 MODEL.FPN.OUT_CHANNELS 32 MODEL.FPN.NORM BN
MODEL.ANCHOR_GENERATOR.SIZES [[8],[16],[32],[64],[128]] MODEL.RPN.POST_NMS_TOPK_TRAIN 50
MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.ROI_HEADS.NUM_CLASSES 5
MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0
MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 32
INPUT.MASK_FORMAT bitmask INPUT.MIN_SIZE_TRAIN (128,) INPUT.MIN_SIZE_TEST 128
DATASETS.TRAIN ('pseudo',) DATASETS.TEST ('true',) DATALOADER.NUM_WORKERS 0
SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.01 SOLVER.WARMUP_ITERS 1 SOLVER.STEPS ()
SOLVER.MAX_ITER 12 SOLVER.CHECKPOINT_PERIOD 6 TEST.DETECTIONS_PER_IMAGE 5
"""


def train(cfg, model, resume):
    model.train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(
        model, cfg.OUTPUT_DIR, optimizer=optimizer, scheduler=scheduler
    )
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    start = loaded.get("iteration", -1) + 1
    periodic = PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER)
    writer, losses = JSONWriter(cfg.OUTPUT_DIR + "/metrics.json"), []
    loader = build_detection_train_loader(cfg)
    with EventStorage(start) as storage:
        for data, iteration in zip(loader, range(start, cfg.SOLVER.MAX_ITER)):
            storage.iter = iteration
            loss_dict = model(data)
            loss = sum(loss_dict.values())
            assert torch.isfinite(loss).all(), loss_dict
            reduced = {name: value.item() for name, value in comm.reduce_dict(loss_dict).items()}
            losses.append(sum(reduced.values()))
            storage.put_scalars(total_loss=losses[-1], **reduced)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            writer.write()
            periodic.step(iteration)
    return losses


def main(pseudo_json, images, true_json, true_images, output, *flags):
    logging.basicConfig(level=logging.WARNING)
    register_coco_instances("pseudo", {}, pseudo_json, images)
    register_coco_instances("true", {}, true_json, true_images)
    cfg = get_cfg()
    mask_rcnn = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(mask_rcnn))
    cfg.merge_from_list([option.replace("''", "") for option in SLIM_MASK_RCNN.split()])
    cfg.OUTPUT_DIR = output
    cfg.freeze()
    seed_all_rng(0)
    model = build_model(cfg)
    losses = train(cfg, model, resume="--resume" in flags)
    results = inference_on_dataset(
        model,
        build_detection_test_loader(cfg, "true"),
        COCOEvaluator("true", output_dir=output),
    )
    print(json.dumps({"losses": losses, "results": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])
