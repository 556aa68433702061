"""Pictures of training for TensorBoard, read back from the event files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.modeling import SemanticSegmentor
from detectron2.structures import Instances, PolygonMasks
from detectron2.utils import comm
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from wsis_d2.data import ImageLabelMapper, register_builtin_datasets, write_label_map
from wsis_d2.engine import Trainer, load_config, setup, train
from wsis_d2.engine.pictures import draw_training_image
from wsis_d2.files import label_file
from wsis_d2.modeling import RetinaMask
from wsis_d2.visualization import (
    draw_boundary,
    draw_displacement,
    draw_heatmap,
    draw_instances,
    draw_label_map,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "shapes"


@pytest.fixture(scope="module", autouse=True)
def shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))
    yield
    register_builtin_datasets()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The image's first class in the upper half, background in the lower one."""
    folder = tmp_path_factory.mktemp("seeds")
    root = MetadataCatalog.get("shapes_train").image_root
    for d in DatasetCatalog.get("shapes_train"):
        labels = np.zeros((d["height"], d["width"]), np.uint8)
        labels[: d["height"] // 2] = d["image_labels"][0] + 1
        write_label_map(label_file(str(folder), d["file_name"], root, ".png"), labels)
    return str(folder)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """The true masks in the place of pseudo labels."""
    path = tmp_path_factory.mktemp("masks") / "labels.json"
    convert_to_coco_json("shapes_train_instances", str(path))
    return str(path)


def config(file, output, period, *options):
    return load_config(
        str(CONFIGS / file),
        [
            *("MODEL.DEVICE", "cpu", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "SEED", 7, "VIS_PERIOD", period),
            *("OUTPUT_DIR", str(output), *options),
        ],
    )


def run(*args):
    """Train, and return the config, the trained model and the pictures: tag -> step -> picture."""
    cfg = config(*args)
    setup(cfg, verbose=False)
    train(cfg)
    model = Trainer.build_model(cfg).eval()
    model.load_state_dict(
        torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)["model"]
    )
    return cfg, model, read_pictures(cfg.OUTPUT_DIR)


def read_pictures(folder):
    events = EventAccumulator(folder, size_guidance={"images": 0}).Reload()
    return {
        tag: {
            event.step: np.array(Image.open(io.BytesIO(event.encoded_image_string)))
            for event in events.Images(tag)
        }
        for tag in events.Tags()["images"]
    }


def as_input(picture, cfg):
    """A picture as the network takes it."""
    channels = {"RGB": picture, "BGR": picture[..., ::-1]}[cfg.INPUT.FORMAT]
    return torch.from_numpy(channels.transpose(2, 0, 1).copy())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The config, the trained model and the pictures of a run, and all inputs that it saw."""
    seen = []
    read = ImageLabelMapper.__call__

    def record(self, dataset_dict):
        seen.append(read(self, dataset_dict))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageLabelMapper, "__call__", record)
        return *run("irnet/classifier.yaml", tmp_path_factory.mktemp("on"), 2), seen


def test_a_classifier_shows_its_cams(classifier):
    cfg, model, pictures, seen = classifier
    ((tag, by_step),) = pictures.items()
    assert tag == "Image, CAM of each label"
    assert list(by_step) == [0, 2]

    # The last one is of the trained weights, and has the image itself on the left.
    image = by_step[2][:, : seen[0]["image"].shape[2]]
    (labels,) = (x["image_labels"] for x in seen if torch.equal(x["image"], as_input(image, cfg)))
    x = (as_input(image, cfg) - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        cams = model.class_activation_maps(x[None])[0, labels]
    expected = np.hstack([image, *(draw_heatmap(image, cam.numpy()) for cam in cams)])
    np.testing.assert_array_equal(by_step[2], expected)


def test_training_does_not_notice(classifier, tmp_path):
    _, with_pictures, *_ = classifier
    _, without, pictures = run("irnet/classifier.yaml", tmp_path, 0)
    assert pictures == {}
    weights = without.state_dict()
    trained = with_pictures.state_dict()
    assert [name for name in trained if not torch.equal(trained[name], weights[name])] == []


def test_irnet_shows_boundaries_and_displacements(seeds, tmp_path):
    cfg, model, pictures = run("irnet/irnet.yaml", tmp_path, 2, "SEEDS.PATH", seeds)
    ((tag, by_step),) = pictures.items()
    assert tag == "Image, class boundary, displacement"
    assert list(by_step) == [0, 2]
    image, *_ = np.split(by_step[2], 3, axis=1)
    with torch.no_grad():
        (relations,) = model([{"image": as_input(image, cfg)}])
    boundary = draw_boundary(image, relations["boundary"].numpy())
    displacement = draw_displacement(image, relations["displacement"].numpy())
    np.testing.assert_array_equal(by_step[2], np.hstack([image, boundary, displacement]))


def test_mask_rcnn_shows_masks_beside_detectron2s_own_pictures(masks, tmp_path):
    options = ("DATASETS.PSEUDO.JSON", masks, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    _, _, pictures = run("mask_rcnn_R_50_slim_FPN.yaml", tmp_path, 2, *options)
    by_step = pictures["Left: given masks; right: best predictions"]
    assert list(by_step) == [0, 2]
    given, predicted = np.split(by_step[2], 2, axis=1)
    assert (given != predicted).any()
    assert "Left: GT bounding boxes;  Right: Predicted proposals" in pictures
    assert "Left: mask prediction;   Right: mask GT (0)" in pictures


def test_mask2former_shows_masks(masks, tmp_path):
    pytest.importorskip("transformers")
    _, _, pictures = run("mask2former_slim.yaml", tmp_path, 2, "DATASETS.PSEUDO.JSON", masks)
    ((tag, by_step),) = pictures.items()
    assert tag == "Left: given masks; right: best predictions"
    assert list(by_step) == [0, 2]
    given, predicted = np.split(by_step[2], 2, axis=1)
    assert (given != predicted).any()


def test_a_semantic_network_shows_label_maps(seeds, tmp_path):
    options = ("DATASETS.PSEUDO.SEM_SEG_ROOT", seeds, "DATASETS.PSEUDO.SOURCE", "shapes_train")
    _, _, pictures = run("sem_seg_R_50_slim_FPN.yaml", tmp_path, 2, *options)
    ((tag, by_step),) = pictures.items()
    assert tag == "Left: given label map; right: prediction"
    given, predicted = np.split(by_step[2], 2, axis=1)
    assert list(by_step) == [0, 2]
    assert (given != predicted).any()


def test_label_maps_are_drawn_side_by_side():
    class Stripes(SemanticSegmentor):
        """Predicts class 1 in the upper half and the background below."""

        def __init__(self):
            nn.Module.__init__(self)

        def forward(self, batch):
            scores = torch.zeros(3, 20, 40)
            scores[2, :10] = scores[0, 10:] = 1
            return [{"sem_seg": scores}]

    image, labels = np.full((20, 40, 3), 90, np.uint8), np.zeros((20, 40), np.uint8)
    labels[:, :20], labels[:, 30:] = 1, 255
    x = {
        "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
        "sem_seg": torch.tensor(labels),
    }
    (picture,) = draw_training_image(Stripes(), x, image).values()
    left, right = np.split(picture, 2, axis=1)
    predicted = np.zeros((20, 40), np.uint8)
    predicted[:10] = 2
    np.testing.assert_array_equal(left, draw_label_map(image, labels))
    np.testing.assert_array_equal(right, draw_label_map(image, predicted))


def test_other_processes_draw_nothing(monkeypatch, masks, tmp_path):
    cfg = config("mask_rcnn_R_50_slim_FPN.yaml", tmp_path, 5, "DATASETS.PSEUDO.JSON", masks)
    main = Trainer.build_model(cfg)
    assert (main.vis_period, main.roi_heads.mask_head.vis_period) == (5, 5)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    trainer = Trainer(cfg)
    assert (trainer.model.vis_period, trainer.model.roi_heads.mask_head.vis_period) == (0, 0)
    assert "TrainingPictures" not in {type(hook).__name__ for hook in trainer._hooks}
    assert cfg.VIS_PERIOD == 5


class TwoSquares(RetinaMask):
    """Predicts two squares, the right one with the higher score."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, batch):
        masks = torch.zeros(2, 20, 40, dtype=torch.bool)
        masks[0, 5:15, 5:15] = masks[1, 5:15, 25:35] = True
        fields = {"scores": torch.tensor([0.2, 0.9]), "pred_classes": torch.tensor([3, 1])}
        return [{"instances": Instances((20, 40), pred_masks=masks, **fields)}]


def test_as_many_predictions_as_masks_are_given_and_polygons_are_drawn():
    image = np.full((20, 40, 3), 90, np.uint8)
    polygon = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]]
    given = Instances((20, 40), gt_masks=PolygonMasks([polygon]), gt_classes=torch.tensor([3]))
    x = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "instances": given}
    (picture,) = draw_training_image(TwoSquares(), x, image).values()
    left, right = np.split(picture, 2, axis=1)
    squares = np.zeros((2, 20, 40), bool)
    squares[0, 5:15, 5:15] = squares[1, 5:15, 25:35] = True
    np.testing.assert_array_equal(left, draw_instances(image, squares[:1], [3], color_ids=[3]))
    np.testing.assert_array_equal(right, draw_instances(image, squares[1:], [1], color_ids=[1]))
    given.remove("gt_masks")
    assert draw_training_image(TwoSquares(), x, image) == {}


def test_a_network_that_is_not_known_has_none():
    assert draw_training_image(nn.Linear(1, 1), {}, np.zeros((4, 4, 3), np.uint8)) == {}


def test_maps_that_are_not_finite_are_drawn_as_nothing(tmp_path):
    cfg = config("irnet/irnet.yaml", tmp_path, 2)
    model = Trainer.build_model(cfg).eval()
    for parameter in model.boundary_head.parameters():
        parameter.data.fill_(float("nan"))
    image = np.full((64, 64, 3), 90, np.uint8)
    x = {"image": as_input(image, cfg)}
    with torch.no_grad():
        (picture,) = draw_training_image(model, x, image).values()
    np.testing.assert_array_equal(picture[:, 64:128], draw_boundary(image, np.zeros((16, 16))))
