"""Training on seeds: the mean displacement, with one process, two, or after a resume."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog

from wsis_d2.data import ImageLabelMapper, register_builtin_datasets, write_label_map
from wsis_d2.engine import (
    MeanDisplacement,
    WSISCheckpointer,
    evaluate,
    launch,
    load_config,
    setup,
    train,
)
from wsis_d2.engine.solver import build_optimizer
from wsis_d2.engine.trainer import Trainer
from wsis_d2.errors import UserError
from wsis_d2.files import label_file

OPTIONS = (
    "MODEL.DEVICE cpu MODEL.META_ARCHITECTURE IRNet MODEL.RESNETS.STEM_OUT_CHANNELS 8 "
    "MODEL.RESNETS.RES2_OUT_CHANNELS 16 MODEL.RESNETS.WIDTH_PER_GROUP 4 "
    "MODEL.RESNETS.OUT_FEATURES ['stem','res2','res3','res4','res5'] "
    "MODEL.IRNET.RADIUS 4 MODEL.IRNET.TEST_SIZE 150 DATASETS.SUPERVISION seeds DATASETS.TEST () "
    "SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0 SOLVER.MAX_ITER 3 SOLVER.CHECKPOINT_PERIOD 2"
).split()


def config(output, seeds, *options):
    return load_config(
        "configs/shapes/Base-Shapes-CAM.yaml",
        [*OPTIONS, "SEEDS.PATH", str(seeds), "OUTPUT_DIR", str(output), *options],
    )


@pytest.fixture
def shapes(datasets_root, monkeypatch, request):
    """Shapes in the catalogs, and the working directory that holds the configs."""
    monkeypatch.chdir(request.config.rootpath)
    register_builtin_datasets(str(datasets_root))
    yield str(datasets_root)
    register_builtin_datasets()


@pytest.fixture(scope="session")
def seeds(datasets_root, tmp_path_factory):
    """A disk of the first label in the middle of each image, with an unknown ring."""
    folder = tmp_path_factory.mktemp("seeds")
    register_builtin_datasets(str(datasets_root))
    root = MetadataCatalog.get("shapes_train").image_root
    for d in DatasetCatalog.get("shapes_train"):
        y, x = np.mgrid[: d["height"], : d["width"]]
        distance = np.hypot(y - d["height"] / 2, x - d["width"] / 2)
        labels = np.select([distance < 25, distance < 32], [d["image_labels"][0] + 1, 255], 0)
        write_label_map(label_file(str(folder), d["file_name"], root, ".png"), labels.astype("u1"))
    return folder


def run(datasets_root, output, seeds, resume=False):
    """One process of the training job."""
    register_builtin_datasets(datasets_root)
    torch.set_num_threads(1)
    cfg = config(output, seeds)
    setup(cfg, verbose=False)
    train(cfg, resume=resume)


def load(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="session")
def trained(datasets_root, seeds, tmp_path_factory, request):
    """The output folder of a run of one process."""
    output = tmp_path_factory.mktemp("irnet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        run(str(datasets_root), output, seeds)
    return output


def expected_mean(cfg, weights, dataset="shapes_train"):
    """The mean of each image's mean displacement, image by image."""
    model = Trainer.build_model(cfg)
    model.load_state_dict(weights)
    model.mean_displacement.zero_()
    model.eval()
    mapper = ImageLabelMapper(cfg, is_train=False)
    means = []
    for d in DatasetCatalog.get(dataset):
        image = (mapper(d)["image"] - model.pixel_mean) / model.pixel_std
        assert image.shape == (3, 128, 128)
        padded = F.pad(image, (0, 22, 0, 22))  # to TEST_SIZE; its zeros count, as published
        with torch.no_grad():
            _, displacement = model.relations(padded[None])
        assert displacement.shape == (1, 2, 38, 38)
        means.append(displacement[0].mean((1, 2)))
    return torch.stack(means).mean(0)


def test_the_last_checkpoint_holds_the_mean(shapes, trained, seeds):
    weights = load(trained / "model_final.pth")
    mean = weights["mean_displacement"]
    expected = expected_mean(config(trained, seeds), weights)
    assert expected.abs().min() > 1e-3
    assert torch.allclose(mean, expected, atol=1e-5)
    # Not in training: the raw field is what is trained.
    assert torch.equal(load(trained / "model_0000001.pth")["mean_displacement"], torch.zeros(2))
    description = torch.load(trained / "model_final.pth", weights_only=True)["wsis_d2"]
    assert description["meta_architecture"] == "IRNet"
    assert description["classes"] == MetadataCatalog.get("shapes_train").thing_classes


def test_the_mean_may_be_that_of_other_images(shapes, seeds, tmp_path):
    cfg = config(tmp_path, seeds, "DATASETS.MEAN_DISPLACEMENT", "('shapes_val',)")
    trainer = Trainer(cfg)
    hook = next(h for h in trainer._hooks if isinstance(h, MeanDisplacement))
    hook.update()
    weights = trainer.model.state_dict()
    mean = weights["mean_displacement"].clone()
    assert torch.allclose(mean, expected_mean(cfg, weights, "shapes_val"), atol=1e-5)
    assert (mean - expected_mean(cfg, weights)).abs().max() > 1e-4


def test_a_resumed_run_sets_the_mean(shapes, trained, seeds, tmp_path):
    killed = tmp_path / "killed"
    killed.mkdir()
    shutil.copy(trained / "model_0000001.pth", killed)
    (killed / "last_checkpoint").write_text("model_0000001.pth")
    run(shapes, killed, seeds, resume=True)
    weights = load(killed / "model_final.pth")
    expected = expected_mean(config(killed, seeds), weights)
    assert torch.allclose(weights["mean_displacement"], expected, atol=1e-5)
    assert (weights["mean_displacement"] != 0).all()

    # A finished run stays as it is.
    before = (killed / "model_final.pth").read_bytes()
    run(shapes, killed, seeds, resume=True)
    assert (killed / "model_final.pth").read_bytes() == before


@pytest.mark.slow
def test_two_processes_share_the_images(shapes, seeds, warm_workers, tmp_path):
    launch(run, 2, dist_url="auto", args=(shapes, tmp_path, seeds))
    weights = load(tmp_path / "model_final.pth")
    expected = expected_mean(config(tmp_path, seeds), weights)
    assert torch.allclose(weights["mean_displacement"], expected, atol=1e-5)
    assert (weights["mean_displacement"] != 0).all()


def test_only_the_heads_moved(shapes, trained, seeds):
    torch.manual_seed(0)
    first, last = load(trained / "model_0000001.pth"), load(trained / "model_final.pth")
    moved = {key.split(".")[0] for key in first if not torch.equal(first[key], last[key])}
    assert moved == {"boundary_head", "displacement_head", "mean_displacement"}


def test_displacement_head_has_its_own_learning_rate(shapes, seeds, tmp_path):
    options = "SOLVER.BASE_LR 0.1 SOLVER.HEAD_MULTIPLIER 2.0 SOLVER.DISPLACEMENT_MULTIPLIER 10.0"
    cfg = config(tmp_path, seeds, *options.split())
    model = Trainer.build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert rates == {
        id(p): pytest.approx(2.0 if name.startswith("displacement_head") else 0.2)
        for name, p in names.items()
        if not name.startswith("backbone")
    }


def test_other_models_train_on_seeds_too(shapes, seeds, tmp_path):
    cfg = config(tmp_path, seeds, "MODEL.META_ARCHITECTURE", "AffinityNet", "SOLVER.MAX_ITER", "2")
    setup(cfg, verbose=False)
    train(cfg)
    weights = load(tmp_path / "model_final.pth")
    assert "merge.weight" in weights
    assert "mean_displacement" not in weights


def test_evaluation_and_missing_seeds_are_refused(shapes, seeds, tmp_path):
    with pytest.raises(UserError, match="names shapes_val, but a model that is trained on seeds"):
        train(config(tmp_path, seeds, "DATASETS.TEST", "('shapes_val',)"))
    with pytest.raises(UserError, match="SUPERVISION is 'seed': choose one of masks, image_labels"):
        evaluate(config(tmp_path, seeds, "DATASETS.SUPERVISION", "seed"))
    with pytest.raises(UserError, match=r"are missing \(16 of 16 .*tools/make_seeds.py"):
        train(config(tmp_path, tmp_path / "none"))


def test_checkpoint_of_a_classifier_starts_the_backbone(shapes, seeds, tmp_path):
    options = ("MODEL.META_ARCHITECTURE", "CAMClassifier", "MODEL.RESNETS.OUT_FEATURES", "['res5']")
    classes = MetadataCatalog.get("shapes_train").thing_classes
    classifier = Trainer.build_model(config(tmp_path, seeds, *options))
    saver = WSISCheckpointer(
        classifier, str(tmp_path), meta_architecture="CAMClassifier", classes=classes
    )
    saver.save("classifier")
    weights = str(tmp_path / "classifier.pth")
    trainer = Trainer(config(tmp_path / "irnet", seeds, "MODEL.WEIGHTS", weights))
    trainer.resume_or_load(resume=False)
    for key, value in classifier.backbone.state_dict().items():
        assert torch.equal(trainer.model.backbone.state_dict()[key], value), key


class _Diverged(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean_displacement", torch.zeros(2))

    def raw_displacements(self, inputs):
        return [torch.full((2, 3, 3), x["displacement"]) for x in inputs]


def test_a_mean_that_is_not_finite_is_refused():
    class Loader(list):
        dataset = range(2)

    model = _Diverged()
    loader = Loader([{"displacement": number}] for number in (1.0, float("nan")))
    hook = MeanDisplacement(model, lambda: loader)
    with pytest.raises(UserError, match="displacements are no finite numbers"):
        hook.update()
    assert torch.equal(model.mean_displacement, torch.zeros(2))


def test_training_that_diverges_stops(shapes, seeds, tmp_path):
    cfg = config(tmp_path, seeds, "SOLVER.BASE_LR", "1e30")
    with pytest.raises(
        UserError, match=r"training diverged: loss.* in iteration \d on images .*jpg"
    ):
        train(cfg)
    assert not (tmp_path / "model_final.pth").exists()
