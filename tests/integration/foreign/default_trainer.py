"""Stock DefaultTrainer on pseudo labels, and stock DefaultPredictor with what it trained.

Usage: python default_trainer.py PSEUDO_JSON IMAGES CLASSIFIER IMAGE OUTPUT

Prints {"instances": number of detections, "image_scores": [...]} on its last line.
"""

import json
import sys

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor, DefaultTrainer
from plain_loop import SLIM_MASK_RCNN

import wsis_d2


def mask_rcnn(output):
    cfg = get_cfg()
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.merge_from_list([option.replace("''", "") for option in SLIM_MASK_RCNN.split()])
    cfg.merge_from_list(["DATASETS.TEST", (), "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", output])
    return cfg


def classifier(weights):
    """The plugin's own model with the weights that its tools trained on Shapes."""
    cfg = get_cfg()
    wsis_d2.add_wsis_config(cfg)
    cfg.merge_from_list(
        "MODEL.META_ARCHITECTURE CAMClassifier MODEL.DEVICE cpu "
        "MODEL.BACKBONE.NAME build_wsis_resnet_backbone MODEL.BACKBONE.FREEZE_AT 0 "
        "MODEL.RESNETS.STEM_OUT_CHANNELS 32 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
        "MODEL.RESNETS.WIDTH_PER_GROUP 16 MODEL.RESNETS.NORM BN MODEL.RESNETS.STRIDES [2,2,2,1] "
        "MODEL.RESNETS.STEM_MAX_POOL False MODEL.RESNETS.STRIDE_IN_1X1 False "
        "MODEL.RESNETS.OUT_FEATURES ['res5'] MODEL.CLASSIFIER.NUM_CLASSES 5 "
        "INPUT.FORMAT RGB INPUT.MIN_SIZE_TEST 128".split()
    )
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    cfg.MODEL.WEIGHTS = weights
    return cfg


def main(pseudo_json, images, classifier_weights, image, output):
    register_coco_instances("pseudo", {}, pseudo_json, images)
    cfg = mask_rcnn(output)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg.MODEL.WEIGHTS = output + "/model_final.pth"
    pixels = read_image(image, "BGR")
    detections = DefaultPredictor(cfg)(pixels)["instances"]
    scores = DefaultPredictor(classifier(classifier_weights))(pixels)["image_scores"]
    print(json.dumps({"instances": len(detections), "image_scores": scores.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
