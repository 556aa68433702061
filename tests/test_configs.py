"""Every config in configs/ loads, builds its model, and every recipe finds its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from fvcore.transforms import NoOpTransform

from wsis_d2 import add_wsis_config
from wsis_d2.engine import build_optimizer, load_config
from wsis_d2.labeling import LOCALIZER_REGISTRY
from wsis_d2.labeling.synonyms import class_texts
from wsis_d2.recipes import load_recipe
from wsis_d2.recipes.own_images import CONFIG_FOLDER

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted([*CONFIGS.rglob("recipe*.yaml"), *CONFIGS.rglob("self_training.yaml")])
BASE_RECIPES = set((CONFIGS / "recipes").glob("*.yaml"))
# Laid over a Mask R-CNN config, no model by themselves.
OVERLAYS = {
    CONFIGS / f"Base-{name}.yaml"
    for name in ("CascadeMaskRCNN", "MobileNetV2", "NoiseAware", "PointRend")
}
# Labels that no network of ours makes.
WITHOUT_MODEL = {CONFIGS / "Base-TextBoxes.yaml", *CONFIGS.glob("*/text_boxes/*_labels.yaml")}
STAGE_CONFIGS = sorted(
    set(CONFIGS.rglob("*.yaml")) - set(RECIPES) - BASE_RECIPES - OVERLAYS - WITHOUT_MODEL
)


SUPERVISION = {
    "CAMClassifier": "image_labels",
    "PRMClassifier": "image_labels",
    "DensityPRM": "image_counts",
    "IRNet": "seeds",
    "AffinityNet": "seeds",
    "SemanticSegmentor": "sem_seg",
    "GeneralizedRCNN": "masks",
    "RetinaMask": "masks",
    "HFMask2Former": "masks",
}


def _name(path):
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", STAGE_CONFIGS, ids=_name)
def test_config_builds_its_model(path):
    options = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "20"]
    options += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "21", "MODEL.RETINANET.NUM_CLASSES", "20"]
    options += ["MODEL.MASK2FORMER.NUM_CLASSES", "20"]
    cfg = load_config(str(path), [*options, "MODEL.CLASSIFIER.NUM_CLASSES", "20"])
    model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE
    assert SUPERVISION[cfg.MODEL.META_ARCHITECTURE] == cfg.DATASETS.SUPERVISION


@pytest.mark.parametrize("path", sorted(WITHOUT_MODEL), ids=_name)
def test_config_without_a_model(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == ""
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.DATASETS.SUPERVISION == "image_labels"
    localizer = LOCALIZER_REGISTRY.get(cfg.PSEUDO_LABELS.LOCALIZER)
    assert localizer.network is None
    texts = class_texts(CLASS_NAMES, cfg.PSEUDO_LABELS.TEXT_BOXES.SYNONYMS)
    assert ("dining table" in texts[10]) == (path.parts[-3] == "voc")


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_recipe_names_files_that_exist(path):
    for stage in load_recipe(str(path)).stages:
        assert (path.parent / stage.config).is_file()


def test_the_configs_come_with_the_package():
    """By a link in the repository; a wheel has copies."""
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.*") if path.suffix != ".pyc"}
    assert all((CONFIG_FOLDER / file).is_file() for file in files)
    assert {file.suffix for file in files} == {".yaml", ".py"}  # those that setup.py names


def test_there_are_configs_to_test():
    assert len(STAGE_CONFIGS) >= 10
    assert len(RECIPES) >= 3


def test_adding_the_keys_twice_changes_nothing():
    cfg = get_cfg()
    add_wsis_config(cfg)
    once = cfg.dump()
    add_wsis_config(cfg)
    assert cfg.dump() == once


def test_voc_mask_rcnn_is_the_published_recipe():
    cfg = load_config(
        str(CONFIGS / "voc" / "mask_rcnn_R_50_FPN.yaml"), ["MODEL.ROI_HEADS.NUM_CLASSES", "20"]
    )
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.IMS_PER_BATCH, solver.MAX_ITER) == (0.01, 4, 18000)
    assert (solver.STEPS, solver.WEIGHT_DECAY) == ((12000, 16000), 1e-4)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((512,), 800)


def test_wises_mask_rcnn_on_voc_is_the_released_training():
    path = CONFIGS / "voc" / "wise" / "mask_rcnn.yaml"
    cfg = load_config(str(path), ["MODEL.ROI_HEADS.NUM_CLASSES", "20"])
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (4, 4 * 0.02 / 16)
    assert (solver.MAX_ITER, solver.STEPS) == (10 * 1464 // 4, ())
    assert (solver.WARMUP_ITERS, solver.WEIGHT_DECAY) == (500 // 4, 1e-4)
    assert (solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS) == (2, 0)
    image = np.zeros((375, 500, 3), np.uint8)
    for is_train in (True, False):
        augmentations = AugmentationList(build_augmentation(cfg, is_train))
        for _ in range(5):
            transforms = augmentations(AugInput(image)).transforms
            assert all(isinstance(t, NoOpTransform) for t in transforms)


def test_mask2former_has_the_published_optimizer():
    trained = _hyperparameters("voc/mask2former_R_50.yaml", "", "MODEL.MASK2FORMER.NUM_CLASSES", 20)
    backbone = {value for name, value in trained.items() if name.startswith("backbone.")}
    assert backbone == {(1e-5, 0.05)}  # batch normalisation is frozen
    norms = {v for name, v in trained.items() if "layer_norm" in name or "layernorm" in name}
    embeddings = {v for name, v in trained.items() if "transformer_module.queries_" in name}
    assert norms == embeddings == {(1e-4, 0.0)}
    assert trained["head.class_predictor.weight"] == (1e-4, 0.05)


def test_irnet_and_affinitynet_on_voc_are_the_published_recipes():
    def solver(path):
        cfg = load_config(str(CONFIGS / "voc" / path), ["MODEL.CLASSIFIER.NUM_CLASSES", "20"])
        s = cfg.SOLVER
        return cfg, (s.BASE_LR, s.IMS_PER_BATCH, s.MAX_ITER, s.WEIGHT_DECAY, s.MOMENTUM)

    images = 10582  # of train_aug
    _, classifier = solver("irnet/classifier.yaml")
    assert classifier == (0.1, 16, images // 16 * 5, 1e-4, 1e-4)
    cfg, irnet = solver("irnet/irnet.yaml")
    assert irnet == (0.1, 32, images // 32 * 3, 1e-4, 1e-4)
    assert (cfg.SOLVER.HEAD_MULTIPLIER, cfg.SOLVER.DISPLACEMENT_MULTIPLIER) == (1, 10)
    cfg, _ = solver("irnet/pseudo_labels.yaml")
    walk, labels = cfg.PSEUDO_LABELS.WALK, cfg.PSEUDO_LABELS.IRNET
    assert (cfg.MODEL.IRNET.RADIUS, walk.RADIUS, walk.BETA, walk.STEPS) == (10, 5, 10, 256)
    assert (labels.BG_THRESHOLD, labels.NORMALIZATION) == (0.25, "image")
    _, classifier = solver("affinitynet/classifier.yaml")
    assert classifier == (0.1, 16, images // 16 * 15, 5e-4, 5e-4)
    _, affinitynet = solver("affinitynet/affinitynet.yaml")
    assert affinitynet == (0.1, 8, images // 8 * 8, 5e-4, 5e-4)
    cfg, _ = solver("affinitynet/pseudo_labels.yaml")
    walk = cfg.PSEUDO_LABELS.WALK
    assert (walk.RADIUS, walk.BETA, walk.STEPS) == (5, 8, 256)
    assert (cfg.PSEUDO_LABELS.AFFINITYNET.ALPHA, cfg.DENSE_CRF.BILATERAL_SXY) == (16, 80)


def _hyperparameters(path, part="", *options):
    """Learning rate and weight decay of every parameter that a stage trains, by name."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", "20", *options]
    cfg = load_config(str(CONFIGS / path), options)
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        groups = build_optimizer(cfg, model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    return {name: value for name, value in found.items() if part in name}


def test_irnets_classifier_trains_the_affine_part_of_batch_norm():
    trained = _hyperparameters("voc/irnet/classifier.yaml")
    assert trained.pop("classifier.weight") == (1.0, 1e-4)
    assert set(trained.values()) == {(0.1, 1e-4)}
    # 6 + 3 blocks of three convolutions, two shortcuts; weight, and two of the normalisation.
    assert len(trained) == 3 * (9 * 3 + 2)
    assert {name.split(".")[1] for name in trained} == {"res4", "res5"}
    assert len(_hyperparameters("voc/irnet/classifier.yaml", "norm.bias")) == 9 * 3 + 2
    # AffinityNet's networks do not.
    assert not _hyperparameters("voc/affinitynet/classifier.yaml", "norm")
    assert not _hyperparameters("voc/affinitynet/affinitynet.yaml", "norm")


def test_irnets_heads_decay_their_normalisation_too():
    trained = _hyperparameters("voc/irnet/irnet.yaml", "norm")
    assert len(trained) >= 2 * 12
    rates = {name.split(".")[0]: value for name, value in trained.items()}
    assert rates == {"boundary_head": (0.1, 1e-4), "displacement_head": (1.0, 1e-4)}
    # Nets of Shapes are measured without.
    for path in ("shapes/irnet/irnet.yaml", "shapes/affinitynet/affinitynet.yaml"):
        decays = {decay for _, decay in _hyperparameters(path, "norm").values()}
        assert decays == {0.0}


def test_biases_of_affinitynet_learn_twice_as_fast_and_do_not_decay():
    options = ["MODEL.RESNETS.NORM", "FixedBN", "MODEL.CLASSIFIER.NUM_CLASSES", "20"]
    cfg = load_config(str(CONFIGS / "voc/affinitynet/affinitynet.yaml"), options)
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get("AffinityNet")(cfg)
        groups = build_optimizer(cfg, model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    biases, weights = set(), set()
    for group in groups:
        for p in group["params"]:
            name, value = names[id(p)], (group["lr"], group["weight_decay"])
            (biases if name.endswith("bias") else weights).add((name.split(".")[0], *value))
    assert biases == {("backbone", 0.2, 0)}
    assert weights == {("backbone", 0.1, 5e-4), ("levels", 1.0, 5e-4), ("merge", 1.0, 5e-4)}
