"""From true peaks through a promptable segmenter to pseudo labels: every coordinate, end to end."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.structures import BitMasks, Instances
from scipy import ndimage
from skimage.measure import label as connected_regions
from torch import nn
from true_regions import TrueRegions, true_maps

from wsis_d2.data import dataset_dicts, register_builtin_datasets
from wsis_d2.data.shapes import SHAPES_CLASSES
from wsis_d2.engine import load_config
from wsis_d2.engine.stages import make_proposals, make_pseudo_labels
from wsis_d2.errors import UserError
from wsis_d2.files import load_json
from wsis_d2.images import read_image
from wsis_d2.labeling import (
    LABEL_GENERATOR_REGISTRY,
    LOCALIZER_REGISTRY,
    LabelGenerator,
    Localizer,
    LocationCues,
    ProposalRefinement,
    build_prompter,
)
from wsis_d2.labeling.prompts import innermost_point
from wsis_d2.proposals import PROMPTABLE_SEGMENTER_REGISTRY, build_proposal_source
from wsis_d2.weights.checkpoint import WSISCheckpointer


class TruePeaks(Localizer):
    """Finds every object, by its true mask."""

    def __init__(self, cfg):
        super().__init__()
        self.network = nn.Linear(1, 1)

    def forward(self, x):
        objects, classes = true_maps(x["file_name"])
        masks = np.stack([objects == i for i in range(1, objects.max() + 1)])
        points = torch.tensor([innermost_point(mask) for mask in masks])
        responses = torch.from_numpy(masks).float()
        of_classes = torch.from_numpy(
            np.stack([classes == c for c in range(len(SHAPES_CLASSES))])
        ).float()
        return LocationCues(
            class_ids=torch.from_numpy(classes)[points[:, 0], points[:, 1]],
            responses=torch.ones(len(points)),
            class_scores=torch.ones(len(points)),
            points=points,
            response_maps=responses / responses.sum((1, 2), keepdim=True),
            class_response_maps=of_classes,
        )


class TrueMasksShrunk(LabelGenerator):
    """Labels of every object a few pixels too small."""

    def __init__(self, cfg):
        super().__init__()
        self.network = nn.Linear(1, 1)

    def label(self, x):
        objects, classes = true_maps(x["file_name"])
        masks = shrunk_masks(objects)
        instances = Instances(objects.shape, pred_masks=torch.from_numpy(masks))
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        instances.scores = torch.ones(len(masks))
        instances.pred_classes = torch.tensor(
            [classes[objects == i].max() for i in range(1, objects.max() + 1)]
        )
        return {"instances": instances}


def shrunk_masks(objects):
    """(N, H, W) bool."""
    wholes = np.stack([objects == i for i in range(1, objects.max() + 1)])
    return ndimage.binary_erosion(wholes, np.ones((1, 5, 5)))


class Predicts(nn.Module):
    """Gives the same instances for every image."""

    def __init__(self, instances):
        super().__init__()
        self.instances = instances

    def forward(self, inputs):
        return [{"instances": self.instances} for _ in inputs]


@pytest.fixture(autouse=True)
def _registered(datasets_root):
    register_builtin_datasets(str(datasets_root))
    LOCALIZER_REGISTRY._do_register("TruePeaks", TruePeaks)
    LABEL_GENERATOR_REGISTRY._do_register("TrueMasksShrunk", TrueMasksShrunk)
    PROMPTABLE_SEGMENTER_REGISTRY._do_register("TrueRegions", TrueRegions)
    yield
    del LOCALIZER_REGISTRY._obj_map["TruePeaks"]
    del LABEL_GENERATOR_REGISTRY._obj_map["TrueMasksShrunk"]
    del PROMPTABLE_SEGMENTER_REGISTRY._obj_map["TrueRegions"]


@pytest.fixture
def config(tmp_path):
    def make(*options):
        return load_config(
            str(ROOT / "configs/shapes/wise/pseudo_labels.yaml"),
            [
                *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
                *("OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(tmp_path / "peaks.pth")),
                *("PSEUDO_LABELS.LOCALIZER", "TruePeaks", "PROPOSALS.SOURCE", "prompted"),
                *("PROPOSALS.PROMPTED.SEGMENTER", "TrueRegions", *options),
            ],
        )

    cfg = make()
    network = nn.Linear(1, 1)
    WSISCheckpointer(
        network,
        str(tmp_path),
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=list(SHAPES_CLASSES),
    ).save("peaks")
    return make


@pytest.mark.parametrize(
    "prompts", ["('point',)", "('box',)", "('point+box+mask',)", "('point', 'box+mask')"]
)
def test_true_peaks_give_true_masks(config, prompts):
    cfg = config("PROPOSALS.PROMPTED.PROMPTS", prompts, "PROPOSALS.MIN_AREA", "0.0")
    metrics = make_pseudo_labels(cfg)["pseudo_labels"]
    assert metrics["AP50"] > 95
    assert metrics["AP75"] > 90


def test_masks_snap_to_what_the_segmenter_says_of_them(config):
    cfg = config("PROPOSALS.PROMPTED.PROMPTS", "('point',)", "PROPOSALS.MIN_AREA", "0.0")
    record = dataset_dicts("shapes_train")[0]
    objects, _ = true_maps(record["file_name"])
    eroded = torch.from_numpy(shrunk_masks(objects))
    predicted = Instances(
        objects.shape,
        pred_masks=eroded,
        pred_boxes=BitMasks(eroded).get_bounding_boxes(),
        scores=torch.ones(len(eroded)),
    )
    proposals = build_proposal_source(cfg)
    prompter = build_prompter(cfg, proposals)
    refinement = ProposalRefinement(Predicts(predicted), proposals, prompter=prompter)
    image = torch.tensor(read_image(record["file_name"])).permute(2, 0, 1)
    (output,) = refinement([{**record, "image": image}])
    pieces = connected_regions(objects, connectivity=1)
    expected = [pieces == pieces[innermost_point(mask)] for mask in eroded.numpy()]
    assert np.array_equal(output["instances"].pred_masks.numpy(), np.stack(expected))


def test_labels_of_any_generator_are_refined(config, tmp_path):
    options = ["PSEUDO_LABELS.GENERATOR", "TrueMasksShrunk", "PROPOSALS.MIN_AREA", "0.0"]
    options += ["PROPOSALS.PROMPTED.PROMPTS", "('point',)"]
    results = {}
    for refine in ("False", "True"):
        cfg = config(*options, "PSEUDO_LABELS.REFINE_WITH_PROPOSALS", refine)
        results[refine] = make_pseudo_labels(cfg, str(tmp_path / f"{refine}.json"))
    before, after = (results[key]["pseudo_labels"] for key in ("False", "True"))
    assert before["ABO"] < 80
    assert after["ABO"] > 95
    assert after["AP75"] > 95
    with pytest.raises(UserError, match="MAX_CANDIDATES"):
        make_pseudo_labels(
            config("PSEUDO_LABELS.REFINE_WITH_PROPOSALS", "True", "PSEUDO_LABELS.MAX_CANDIDATES", 3)
        )


def test_there_are_no_proposals_before_objects_are_located(config):
    assert make_proposals(config()) == {"num_images": 16}


def test_a_random_sam_labels_images(config, random_sam, tmp_path):
    cfg = config(
        *("PROPOSALS.PROMPTED.SEGMENTER", "TransformersSAM"),
        *("PROPOSALS.PROMPTED.WEIGHTS", random_sam),
        *("PROPOSALS.PROMPTED.PROMPTS", "('point', 'box', 'point+mask')"),
    )
    files = [tmp_path / f"labels_{i}.json" for i in range(2)]
    for file in files:
        assert "AP50" in make_pseudo_labels(cfg, str(file))["pseudo_labels"]
    labels = load_json(files[0])
    assert labels == load_json(files[1])
    assert labels["annotations"]
    assert len(labels["info"]["segmenter"]) == 64
    assert random_sam not in files[0].read_text()
