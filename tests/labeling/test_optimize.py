"""Networks made ready for inference against themselves as they were."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from wsis_d2 import add_wsis_config
from wsis_d2.labeling import multi_scale_cams, optimize_for_inference

BACKBONES = ("build_wsis_resnet_backbone", "build_timm_backbone")


def _network(architecture, backbone):
    """A small network, its batch normalisation with statistics of its own."""
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.merge_from_list(
        ["DEVICE", "cpu", "META_ARCHITECTURE", architecture, "BACKBONE.NAME", backbone]
        + ["BACKBONE.FREEZE_AT", 0, "CLASSIFIER.NUM_CLASSES", 3, "PIXEL_STD", [58.0, 57.0, 56.0]]
        + ["RESNETS.DEPTH", 18, "RESNETS.RES2_OUT_CHANNELS", 8, "RESNETS.STEM_OUT_CHANNELS", 8]
        + ["RESNETS.NORM", "FixedBN", "RESNETS.OUT_FEATURES", ["stem", "res2", "res3", "res5"]]
        + ["IRNET.IN_FEATURES", ["stem", "res2", "res3", "res5"], "IRNET.TEST_SIZE", 0]
        + ["TIMM.NAME", "mobilenetv2_035", "TIMM.OUT_FEATURES", ("stem", "res2", "res3", "res5")]
    )
    torch.manual_seed(0)
    network = build_model(cfg).eval()
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def _num_norms(network):
    return sum(hasattr(module, "running_mean") for module in network.modules())


def _image():
    return torch.randint(0, 256, (3, 61, 77), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cams_stay(backbone):
    network = _network("CAMClassifier", backbone)
    optimized = optimize_for_inference(copy.deepcopy(network))
    assert _num_norms(network) > 10
    # timm's last normalisation comes after the last feature that is read.
    assert _num_norms(optimized) == (backbone == "build_timm_backbone")
    found, expected = (multi_scale_cams(n, _image(), [0, 2], (1.0,)) for n in (optimized, network))
    assert expected.amax() > 0.9
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_relations_stay(backbone):
    network = _network("IRNet", backbone)
    optimized = optimize_for_inference(copy.deepcopy(network))
    assert not any(p.requires_grad for p in optimized.backbone.parameters())
    (found,), (expected,) = (n([{"image": _image()}]) for n in (optimized, network))
    assert expected["boundary"].std() > 1e-3
    for name, values in expected.items():
        assert torch.allclose(found[name], values, atol=1e-4), name
