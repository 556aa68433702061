"""A user's own script that builds every meta-architecture of the plugin by stock ``build_model``.

Usage: python build_models.py

Each is trained for a step and run on random images. Prints {architecture: {"losses": {...},
"gradients": number of parameters that got one, "outputs": [keys of an image's output]}} on its last
line.
"""

import json

import torch
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

import wsis_d2

SLIM_RESNET = """
MODEL.DEVICE cpu MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM BN
MODEL.RESNETS.STEM_OUT_CHANNELS 16 MODEL.RESNETS.RES2_OUT_CHANNELS 32
MODEL.RESNETS.WIDTH_PER_GROUP 8 MODEL.CLASSIFIER.NUM_CLASSES 3 MODEL.PRM.UPSAMPLE 2
SOLVER.BASE_LR 0.001
"""
CLASSIFIER = "MODEL.RESNETS.OUT_FEATURES ['res5']"
OPTIONS = {
    # Detectron2's own backbone, and the plugin's, which has free strides.
    "CAMClassifier": CLASSIFIER,
    "PRMClassifier": f"{CLASSIFIER} MODEL.BACKBONE.NAME build_wsis_resnet_backbone "
    "MODEL.RESNETS.STRIDES [2,2,2,1]",
    "DensityPRM": f"{CLASSIFIER} MODEL.DENSITY.CELLS 16.0",
    "IRNet": "MODEL.RESNETS.OUT_FEATURES ['stem','res2','res3','res4','res5'] "
    "MODEL.IRNET.RADIUS 4 MODEL.IRNET.TEST_SIZE 0",
    "AffinityNet": "MODEL.RESNETS.OUT_FEATURES ['res3','res4','res5'] MODEL.AFFINITYNET.RADIUS 3",
    "HFMask2Former": "MODEL.RESNETS.OUT_FEATURES ['res2','res3','res4','res5'] "
    "MODEL.MASK2FORMER.NUM_CLASSES 3 MODEL.MASK2FORMER.HIDDEN_DIM 32 "
    "MODEL.MASK2FORMER.NUM_QUERIES 5 MODEL.MASK2FORMER.ENCODER_LAYERS 1 "
    "MODEL.MASK2FORMER.DECODER_LAYERS 2 MODEL.MASK2FORMER.TRAIN_NUM_POINTS 100",
    "RetinaMask": "MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone "
    "MODEL.RESNETS.OUT_FEATURES ['res3','res4','res5'] "
    "MODEL.FPN.IN_FEATURES ['res3','res4','res5'] MODEL.FPN.OUT_CHANNELS 32 "
    "MODEL.RETINANET.NUM_CLASSES 3 MODEL.ANCHOR_GENERATOR.SIZES [[16],[32],[64],[128],[256]] "
    "MODEL.ROI_MASK_HEAD.NAME MaskRCNNConvUpsampleHead MODEL.ROI_MASK_HEAD.NUM_CONV 1 "
    "MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.MASK_ON True",
}
SIZE = (96, 128)


def random_input():
    """An image with every kind of label, of which a model takes its own."""
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 70.0, 90.0]]))
    instances.gt_classes = torch.tensor([1])
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 20:90, 10:70] = True
    instances.gt_masks = BitMasks(mask)
    return {
        "image": torch.randint(256, (3, *SIZE), dtype=torch.uint8),
        "image_labels": torch.tensor([0, 2]),
        "image_counts": torch.tensor([1, 3]),
        "sem_seg": torch.randint(3, SIZE, dtype=torch.uint8),
        "instances": instances,
        "height": SIZE[0],
        "width": SIZE[1],
    }


def try_out(architecture):
    cfg = get_cfg()
    wsis_d2.add_wsis_config(cfg)
    cfg.merge_from_list([*SLIM_RESNET.split(), *OPTIONS[architecture].split()])
    cfg.MODEL.META_ARCHITECTURE = architecture
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        losses = model([random_input(), random_input()])
    sum(losses.values()).backward()
    optimizer.step()
    gradients = sum(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    model.eval()
    with torch.no_grad():
        outputs = model([random_input(), random_input()])
    assert len(outputs) == 2
    losses = {name: loss.item() for name, loss in losses.items()}
    return {"losses": losses, "gradients": gradients, "outputs": sorted(outputs[0])}


if __name__ == "__main__":
    ours = sorted(
        name
        for name, architecture in META_ARCH_REGISTRY
        if architecture.__module__.startswith("wsis_d2.")
    )
    print(json.dumps({name: try_out(name) for name in ours}))
