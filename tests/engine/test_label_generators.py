"""Label generators from configs: every localiser and selector, and what the file says of them."""

import pytest
import torch
from conftest import ROOT

from wsis_d2.data import register_builtin_datasets
from wsis_d2.data.image_folder import ImageFolder
from wsis_d2.engine import load_config
from wsis_d2.engine.stages.pseudo_labels import label_info
from wsis_d2.errors import UserError
from wsis_d2.labeling import (
    LABEL_GENERATOR_REGISTRY,
    PRM,
    SELECTOR_REGISTRY,
    PRMScore,
    build_label_generator,
    build_selector,
)

SHAPES = ROOT / "configs" / "shapes"
FOLDERS = {"PRMPeaks": "wise", "CAMMaxima": "wise_cam", "IRNetCentroids": "wise_irnet"}


@pytest.fixture(autouse=True)
def _shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))


def _config(localizer, *options):
    return load_config(str(SHAPES / FOLDERS[localizer] / "pseudo_labels.yaml"), options)


@pytest.mark.parametrize("localizer", FOLDERS)
def test_localizers_take_the_network_of_their_config(localizer):
    cfg = _config(localizer)
    generator = build_label_generator(cfg)
    assert type(generator.localizer).__name__ == localizer
    assert type(generator.network).__name__ == cfg.MODEL.META_ARCHITECTURE
    assert not generator.training
    assert (generator.cams is not None) == (localizer == "IRNetCentroids")


@pytest.mark.parametrize(
    ("config", "folds"),
    [
        ("wise", False),  # the relevance of peaks depends on the weights as they are
        ("wise_cam", True),
        ("wise_irnet", True),
        ("irnet", True),
        ("affinitynet", True),
    ],
)
def test_networks_are_optimized_where_their_results_stay(config, folds):
    generator = build_label_generator(load_config(str(SHAPES / config / "pseudo_labels.yaml")))
    before = [m for m in generator.network.modules() if hasattr(m, "running_mean")]
    generator.optimize()
    after = [m for m in generator.network.modules() if hasattr(m, "running_mean")]
    assert before
    assert len(after) == (0 if folds else len(before))


@pytest.mark.parametrize("selector", [name for name, _ in SELECTOR_REGISTRY])
def test_selectors_by_name(selector):
    built = build_selector(_config("CAMMaxima", "PSEUDO_LABELS.SELECTOR", selector))
    assert type(built).__name__ == selector


def test_prm_is_short_for_its_score_and_suppression_over_all_classes():
    generator = build_label_generator(_config("PRMPeaks", "PSEUDO_LABELS.GENERATOR", "PRM"))
    assert isinstance(generator, PRM)
    assert isinstance(generator.selector, PRMScore)
    assert generator.class_agnostic_nms


@pytest.mark.parametrize(
    ("localizer", "options", "match"),
    [
        ("PRMPeaks", ("PSEUDO_LABELS.LOCALIZER", "Peaks"), "LOCALIZER is 'Peaks'.*PRMPeaks"),
        ("PRMPeaks", ("PSEUDO_LABELS.SELECTOR", "Best"), "SELECTOR is 'Best'.*BestObjectness"),
        ("CAMMaxima", ("PSEUDO_LABELS.LOCALIZER", "PRMPeaks"), "'CAMClassifier'.*PRMClassifier"),
        ("IRNetCentroids", ("PSEUDO_LABELS.LOCALIZER", "CAMMaxima"), "'IRNet'.*CAMClassifier"),
        ("PRMPeaks", ("PSEUDO_LABELS.LOCALIZER", "IRNetCentroids"), "'PRMClassifier'.*IRNet"),
    ],
)
def test_parts_that_do_not_exist_or_fit(localizer, options, match):
    with pytest.raises(UserError, match=match):
        build_label_generator(_config(localizer, *options))


def test_a_generator_is_a_label_generator():
    @LABEL_GENERATOR_REGISTRY.register()
    class Stranger(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()

    cfg = _config("PRMPeaks", "PSEUDO_LABELS.GENERATOR", "Stranger")
    try:
        with pytest.raises(UserError, match="'Stranger' is no wsis_d2.labeling.LabelGenerator"):
            build_label_generator(cfg)
    finally:
        LABEL_GENERATOR_REGISTRY._obj_map.pop("Stranger")


def test_info_says_what_the_labels_depend_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFolder, "content_fingerprint", lambda self: f"of {self.folder}")
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    for localizer, cams in (("PRMPeaks", None), ("IRNetCentroids", "of some_folder")):
        options = ("MODEL.WEIGHTS", str(weights), "CAM.PATH", "some_folder")
        cfg = _config(localizer, *options)
        info = label_info(cfg, "shapes_train", build_label_generator(cfg))
        assert info.get("cams") == cams
        settings = info["config"]
        assert settings["PSEUDO_LABELS"]["LOCALIZER"] == localizer
        assert settings["PROPOSALS"]["MIN_AREA"] == 0.01
        assert "PATH" not in settings["PROPOSALS"]
        assert "PATH" not in settings["CAM"]
        assert "WEIGHTS" not in settings["MODEL"]
