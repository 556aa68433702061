"""LazyConfig files: the same models, data and solvers as the YAML configs; their training tool."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from wsis_d2.data import (
    SHAPES_CLASSES,
    ground_truth_json,
    register_builtin_datasets,
    write_label_map,
)
from wsis_d2.engine import (
    build_lr_scheduler,
    build_optimizer,
    evaluate,
    load_config,
    load_lazy_config,
    setup,
)
from wsis_d2.engine.supervision import build_supervision
from wsis_d2.files import label_file

LAZY = ROOT / "configs" / "lazy"
#: Every LazyConfig file that can be trained, and the YAML config that it equals.
PAIRS = {
    "voc/cam_classifier_R_50.py": "voc/irnet/classifier.yaml",
    "voc/affinitynet_classifier_R_50.py": "voc/affinitynet/classifier.yaml",
    "voc/prm_classifier_R_50.py": "voc/wise/classifier.yaml",
    "voc/irnet_R_50.py": "voc/irnet/irnet.yaml",
    "voc/affinitynet_R_50.py": "voc/affinitynet/affinitynet.yaml",
    "voc/density_prm_R_50.py": "voc/wise_counts/classifier.yaml",
    "voc/retina_mask_R_50_FPN.py": "voc/retina_mask_R_50_FPN.yaml",
    "voc/mask_rcnn_R_50_FPN.py": "voc/mask_rcnn_R_50_FPN.yaml",
    "shapes/cam_classifier_R_50_slim.py": "shapes/irnet/classifier.yaml",
    "shapes/prm_classifier_R_50_slim.py": "shapes/wise/classifier.yaml",
    "shapes/irnet_R_50_slim.py": "shapes/irnet/irnet.yaml",
    "shapes/affinitynet_R_50_slim.py": "shapes/affinitynet/affinitynet.yaml",
    "shapes/density_prm_R_50_slim.py": "shapes/wise_counts/classifier.yaml",
    "shapes/retina_mask_R_50_slim_FPN.py": "shapes/retina_mask_R_50_slim_FPN.yaml",
    "shapes/mask_rcnn_R_50_slim_FPN.py": "shapes/mask_rcnn_R_50_slim_FPN.yaml",
}


@pytest.fixture(params=PAIRS.items(), ids=lambda pair: pair[0])
def pair(request):
    """A LazyConfig and the YAML config that it equals."""
    lazy, yaml = request.param
    classes = "20" if lazy.startswith("voc") else "5"
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", classes]
    options += ["MODEL.ROI_HEADS.NUM_CLASSES", classes, "MODEL.RETINANET.NUM_CLASSES", classes]
    cfg = load_config(str(ROOT / "configs" / yaml), options)
    return load_lazy_config(str(LAZY / lazy)), cfg


def test_every_file_is_tested():
    found = {str(path.relative_to(LAZY)) for path in LAZY.rglob("*.py")}
    assert {name for name in found if not name.startswith("common/")} == set(PAIRS)


@pytest.mark.parametrize("lazy", PAIRS)
def test_a_config_can_be_saved_loaded_and_printed(lazy, tmp_path):
    cfg = load_lazy_config(str(LAZY / lazy))
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        model, expected = instantiate(again.model), instantiate(cfg.model)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert type(model).__name__ in LazyConfig.to_py(cfg)


def _parameters(model):
    return {name: (p.shape, p.requires_grad) for name, p in model.named_parameters()}


def _outputs(model, images):
    model.eval()
    with torch.no_grad():
        return model([{"image": image} for image in images])


def _tensors(output):
    """All tensors of an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for key in sorted(output) for tensor in _tensors(output[key])]
    if isinstance(output, list):
        return [tensor for item in output for tensor in _tensors(item)]
    return [output.pred_boxes.tensor, output.scores, output.pred_classes, output.pred_masks]


def test_model_and_solver_are_the_yaml_configs(pair):
    lazy, cfg = pair
    with torch.device("meta"):
        model = instantiate(lazy.model)
        expected = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        assert type(model) is type(expected)
        # Whether a frozen layer keeps batch normalisation's counter depends on what it was before.
        shapes, expected_shapes = (
            {k: v.shape for k, v in m.state_dict().items() if not k.endswith("num_batches_tracked")}
            for m in (model, expected)
        )
        assert shapes == expected_shapes
        assert _parameters(model) == _parameters(expected)
        lazy.optimizer.params.model = model
        optimizer, expected_optimizer = instantiate(lazy.optimizer), build_optimizer(cfg, expected)
    assert type(optimizer) is type(expected_optimizer)
    assert _groups(optimizer, model) == pytest.approx(_groups(expected_optimizer, expected))
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.train.checkpointer.period == cfg.SOLVER.CHECKPOINT_PERIOD

    scheduler = build_lr_scheduler(cfg, expected_optimizer)
    multiplier = instantiate(lazy.lr_multiplier)
    for step in range(0, cfg.SOLVER.MAX_ITER, max(1, cfg.SOLVER.MAX_ITER // 97)):
        progress = step / cfg.SOLVER.MAX_ITER
        assert multiplier(progress) == pytest.approx(scheduler._multiplier(progress))


def _groups(optimizer, model):
    """Each parameter's hyperparameters, flat: {"name lr": ..., "name weight_decay": ...}."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]} {key}": float(group[key])
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key in ("lr", "weight_decay", "momentum")
        if key in group
    }


def test_data_are_the_yaml_configs(pair):
    lazy, cfg = pair
    train, supervision = lazy.dataloader.train, build_supervision(cfg)
    assert (train.dataset.names,) == cfg.DATASETS.TRAIN
    assert train.dataset.get("source", "") == cfg.DATASETS.PSEUDO.SOURCE
    assert train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert train.num_workers == cfg.DATALOADER.NUM_WORKERS
    _assert_same_mapper(instantiate(train.mapper), supervision.mapper(is_train=True))
    if cfg.DATASETS.TEST:
        test = lazy.dataloader.test
        assert (test.dataset.names,) == cfg.DATASETS.TEST
        _assert_same_mapper(instantiate(test.mapper), supervision.mapper(is_train=False))
    else:
        assert "evaluator" not in lazy.dataloader
    if "train_images" in lazy.dataloader:
        images = lazy.dataloader.train_images
        names = cfg.DATASETS.MEAN_DISPLACEMENT or cfg.DATASETS.TRAIN
        assert (images.dataset.names,) == names
        _assert_same_mapper(instantiate(images.mapper), supervision.label_mapper(is_train=False))


def _assert_same_mapper(mapper, expected):
    assert type(mapper) is type(expected)
    assert mapper.image_format == expected.image_format
    # OmegaConf has no tuples.
    found, wanted = (
        repr(m.augmentations).replace("(", "[").replace(",)", "]").replace(")", "]")
        for m in (mapper, expected)
    )
    assert found == wanted
    if expected.is_train:
        for key in ("use_instance_mask", "instance_mask_format", "max_count"):
            assert getattr(mapper, key, None) == getattr(expected, key, None)


@pytest.mark.parametrize("lazy", [name for name in PAIRS if name.startswith("shapes")])
def test_outputs_are_the_yaml_configs(lazy):
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", "5"]
    options += ["MODEL.ROI_HEADS.NUM_CLASSES", "5", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    options += ["MODEL.RETINANET.NUM_CLASSES", "5", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]
    expected = build_model(load_config(str(ROOT / "configs" / PAIRS[lazy]), options))
    cfg = load_lazy_config(str(LAZY / lazy))
    if "roi_heads" in cfg.model:
        cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    if "mask_in_features" in cfg.model:
        cfg.model.test_score_thresh = 0.0
    model = instantiate(cfg.model)
    torch.manual_seed(0)
    model.load_state_dict(expected.state_dict())
    images = [torch.randint(256, (3, 64, 96), dtype=torch.uint8)]
    found, wanted = (_tensors(_outputs(m, images)) for m in (model, expected))
    assert found
    assert len(found[0])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


QUICK = (
    "train.max_iter=2 dataloader.train.total_batch_size=4 dataloader.train.num_workers=0".split()
)


@pytest.fixture
def train_lazily(tool_in_process, tmp_path):
    """Run the tool on a LazyConfig of Shapes; returns the output folder."""

    def run(name, *arguments):
        code, error = tool_in_process(
            "lazyconfig_train_net.py",
            *("--config-file", LAZY / "shapes" / name),
            *[a for a in arguments if a.startswith("--")],
            *QUICK,
            f"train.output_dir={tmp_path}",
            *[a for a in arguments if not a.startswith("--")],
        )
        assert code == 0, error
        return tmp_path

    yield run
    register_builtin_datasets()


def _last_iteration(output):
    return torch.load(output / "model_final.pth", weights_only=True)["trainer"]["iteration"]


def test_classifier_trains_resumes_and_is_a_checkpoint_of_the_yaml_config(train_lazily):
    output = train_lazily("cam_classifier_R_50_slim.py")
    assert _last_iteration(output) == 1
    assert (output / "config.yaml").is_file()
    train_lazily("cam_classifier_R_50_slim.py", "--resume", "train.max_iter=3")
    assert _last_iteration(output) == 2
    weights = output / "model_final.pth"
    train_lazily("cam_classifier_R_50_slim.py", "--eval-only", f"train.init_checkpoint={weights}")
    metrics = json.loads((output / "eval_metrics.json").read_text())

    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights), "DATALOADER.NUM_WORKERS", "0"]
    options += ["OUTPUT_DIR", str(output / "yaml")]
    cfg = load_config(str(ROOT / "configs/shapes/irnet/classifier.yaml"), options)
    setup(cfg, verbose=False)
    found = evaluate(cfg)["classification"]["mAP"]
    assert metrics["classification"]["mAP"] == pytest.approx(found)


def test_irnet_trains_on_seeds_and_measures_its_mean_displacement(train_lazily, datasets_root):
    register_builtin_datasets(str(datasets_root))
    seeds, generator = datasets_root / "lazy_seeds", np.random.default_rng(0)
    root = MetadataCatalog.get("shapes_train").image_root
    for d in DatasetCatalog.get("shapes_train"):
        blocks = generator.choice([0, 1, 2, 255], (4, 4)).astype(np.uint8)
        label_map = np.kron(blocks, np.ones((32, 32), np.uint8))[: d["height"], : d["width"]]
        write_label_map(label_file(str(seeds), d["file_name"], root, ".png"), label_map)
    output = train_lazily("irnet_R_50_slim.py", f"dataloader.train.dataset.folder={seeds}")
    weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert weights["mean_displacement"].abs().min() > 0


def test_mask_rcnn_trains_on_a_coco_file_and_is_evaluated(train_lazily, datasets_root):
    register_builtin_datasets(str(datasets_root))
    labels = ground_truth_json("shapes_train")
    output = train_lazily(
        "mask_rcnn_R_50_slim_FPN.py",
        f"dataloader.train.dataset.json_file={labels}",
        "model.roi_heads.box_predictor.test_score_thresh=0.0",
        "model.roi_heads.box_predictor.test_topk_per_image=3",
    )
    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert metrics[-1]["segm/AP50"] >= 0
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["wsis_d2"]["classes"] == list(SHAPES_CLASSES)


def test_density_prm_trains_on_lower_counts(train_lazily):
    output = train_lazily("density_prm_R_50_slim.py", "model.stage1_iters=1")
    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert metrics[-1]["classification/mAP"] >= 0
    assert metrics[0]["loss_mse"] > 0
    assert metrics[-1]["counts/mRMSE"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "nothing.py"], "does not exist"),
        (["train.max_itr=5"], "has no 'train.max_itr'"),
        (["trainer.max_iter=5"], "has no 'trainer'"),
        (["train.max_iter"], "no key=value"),
        (["train.max_iter=[1"], "cannot be used"),
        (["dataloader.train.dataset.names=shapes_trian"], "did you mean 'shapes_train'"),
    ],
)
def test_mistakes_are_one_sentence(tool_in_process, tmp_path, arguments, message):
    config = ("--config-file", LAZY / "shapes" / "cam_classifier_R_50_slim.py")
    code, error = tool_in_process(
        "lazyconfig_train_net.py", *config, *arguments, f"train.output_dir={tmp_path}"
    )
    assert code == 2
    sentence = error[error.index("error: ") :]
    assert sentence.count("\n") == 1
    assert message in sentence


@pytest.mark.slow
def test_two_processes_train(run_tool, tmp_path):
    completed = run_tool(
        "lazyconfig_train_net.py",
        *("--config-file", "configs/lazy/shapes/cam_classifier_R_50_slim.py", "--num-gpus", 2),
        *(*QUICK, f"train.output_dir={tmp_path}"),
        timeout=600,
    )
    assert completed.returncode == 0, completed.stderr
    assert _last_iteration(tmp_path) == 1
