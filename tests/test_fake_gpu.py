"""What a GPU would run, without one: on tensors that have a shape and a device, but no values.

Nothing may mix devices, leave the GPU, or wait for it: asked for a value, such a tensor raises.
What needs values, and so cannot be tested in this way, is listed here with the reason; tests/gpu
compares it with the CPU where there is a GPU.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import contextmanager

import pytest
import torch
from conftest import ROOT
from detectron2.modeling import build_model
from dispatched_calls import DispatchedCalls
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from wsis_d2 import layers
from wsis_d2.engine.setup import merged_config
from wsis_d2.layers.peak_stimulation import peak_scores
from wsis_d2.layers.stencil import Stencil

NEEDS_VALUES = {
    "CRFSettings": "no tensors in it",
    "UNKNOWN": "a number",
    "cluster_centroids": "SciPy finds the connected regions on the CPU, at one copy each way",
    "convert_dilated_depthwise": "changes modules, not tensors",
    "convert_to_fixed_batchnorm": "changes modules, not tensors",
    "dense_crf_from_labels": "its lattice has as many cells as the image needs",
    "dense_crf_from_scores": "its lattice has as many cells as the image needs",
    "find_centroids": "refuses infinite fields, and looks eight times whether paths have met",
    "find_peaks": "its result is as long as there are peaks",
    "fold_batch_norm": "changes modules, not tensors",
    "peak_response_maps": "its gradients are autograd's, whose engine wants the device itself",
    "peak_stimulation": "returns the peaks too; its scores are tested as peak_scores",
}

#: PyTorch's lazy device: of the tensors without values, autograd runs these on the CPU's thread,
#: where a GPU's would need the GPU.
DEVICES = ["cuda", "lazy"]


class _RealOnCPU(TorchDispatchMode):
    """Tensors on the CPU keep their values, while FakeTensorMode takes them from all others."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(
            isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type != "cpu")
            for x in leaves
        ):
            return func(*args, **kwargs)
        with _disable_current_modes():
            return func(*args, **kwargs)


@contextmanager
def fake_gpu():
    """Gives the watch over what is called."""
    with FakeTensorMode(allow_non_fake_inputs=True), _RealOnCPU(), DispatchedCalls() as calls:
        yield calls


@pytest.fixture
def walk_in_pytorch(monkeypatch):
    """The stencil of GPUs without Triton; Triton's is tested in its interpreter."""
    # The package's function hides the module of its name.
    module = sys.modules["wsis_d2.layers.random_walk"]
    monkeypatch.setattr(module, "_fastest_stencil", Stencil)


def _seeds(device):
    return torch.zeros(2, 24, 30, dtype=torch.uint8, device=device)


def _boundary(device):
    return layers.boundary_affinity(torch.rand(20, 26, device=device), 4)


def _walk(device, **options):
    return layers.random_walk(torch.rand(3, 20, 26, device=device), _boundary(device), **options)


def _walk_of_two(device):
    affinity = _boundary(device)
    narrow = dataclasses.replace(affinity, values=affinity.values[..., :13])
    xs = torch.rand(3, 20, 26, device=device), torch.rand(5, 20, 13, device=device)
    return layers.random_walk(xs, [affinity, narrow], num_steps=3)


def _smooth_l1(device, x):
    with torch.device(device):
        return layers.SelfAdjustingSmoothL1()(x, torch.rand_like(x))


def _fixed_norm(device, x):
    with torch.device(device):
        return layers.FixedBatchNorm2d(3)(x)


def _dilated(device, x):
    with torch.device(device):
        return layers.DilatedDepthwiseConv2d(3, 3, 3, padding=2, dilation=2, groups=3)(x)


#: Name, shape of x, function of the device and x; its result goes backward.
DIFFERENTIABLE = {
    "irnet_losses": (
        (2, 3, 24, 30),
        lambda d, x: layers.irnet_losses(x[:, :1], x[:, 1:], _seeds(d), 5)["total"],
    ),
    "affinitynet_losses": (
        (2, 8, 24, 30),
        lambda d, x: layers.affinitynet_losses(x, _seeds(d), 5)["total"],
    ),
    "peak_scores": ((2, 3, 9, 11), lambda d, x: peak_scores(x, 3, "mean")),
    "count_losses": (
        (4, 5),
        lambda d, x: torch.stack(
            layers.count_losses(x, torch.ones(4, 5, device=d), 4, x.detach() > 0.5)
        ),
    ),
    "spatial_losses": (
        (2, 3, 9, 11),
        lambda d, x: torch.stack(
            layers.spatial_losses(x, x.detach() > 0.9, torch.ones(2, 3, device=d) > 0)
        ),
    ),
    "scale_gradient": ((4, 5), lambda d, x: layers.scale_gradient(x, torch.rand(5, device=d))),
    "SelfAdjustingSmoothL1": ((6, 4), _smooth_l1),
    "DilatedDepthwiseConv2d": ((2, 3, 9, 11), _dilated),
    "FixedBatchNorm2d": ((2, 3, 9, 11), _fixed_norm),
    "feature_affinity": ((8, 20, 26), lambda d, x: layers.feature_affinity(x, 4).values),
    "correlate_pixels": (
        (2, 3, 9, 11),
        lambda d, x: layers.correlate_pixels(x, [x, torch.rand(2, 8, 5, 6, device=d)]),
    ),
}

OTHERS = {
    "highest_peaks": lambda d: layers.highest_peaks(
        torch.rand(2, 3, 9, 11, device=d), torch.ones(2, 3, device=d)
    ),
    "fraction_inside": lambda d: layers.fraction_inside(
        torch.rand(5, 4, device=d), torch.rand(9, 11, device=d) > 0.5
    ),
    "boundary_affinity": lambda d: _boundary(d).values,
    "PairAffinity": lambda d: torch.stack([_boundary(d).degrees(), _boundary(d).dense()[:20, :26]]),
    "random_walk": lambda d: _walk(d, num_steps=4, tolerance=0),
    "random_walk, power": lambda d: _walk(d, num_steps=3, method="power"),
    "random_walk, dense": lambda d: _walk(d, num_steps=3, method="dense"),
    "random_walk, lists": lambda d: torch.cat([m.flatten() for m in _walk_of_two(d)]),
}


def test_every_layer_is_tested_or_has_a_reason():
    tested = {name.partition(",")[0] for name in [*DIFFERENTIABLE, *OTHERS]} - {"peak_scores"}
    assert tested | set(NEEDS_VALUES) == set(layers.__all__)
    assert not tested & set(NEEDS_VALUES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_layers_stay_on_the_device(name, device):
    shape, function = DIFFERENTIABLE[name]
    with fake_gpu() as calls:
        x = torch.rand(shape, device=device, requires_grad=True)
        out = function(device, x)
        if device == "lazy":
            out.sum().backward()
            assert x.grad.device.type == device
    assert out.device.type == device
    assert calls.crossings == []


@pytest.mark.parametrize("name", OTHERS)
def test_layers_without_gradient_stay_on_the_device(name, walk_in_pytorch):
    with fake_gpu() as calls:
        out = OTHERS[name]("cuda")
    assert out.device.type == "cuda"
    assert calls.crossings == []


def test_what_leaves_the_device_is_found():
    with fake_gpu() as calls:
        x = torch.rand(3, device="cuda")
        assert x.cpu().device.type == "cpu"
        x[torch.tensor([0, 1])]  # PyTorch copies the index
        assert len(calls.crossings) == 2
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.rand(3)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            x.sum().item()


#: Config in configs/shapes, and how many copies to the device two training images take.
MODELS = {
    "irnet/classifier": 3,
    "irnet/irnet": 3,
    "wise/classifier": 3,
    "wise_counts/classifier": 3,
    "affinitynet/affinitynet": 3,
    "sem_seg_R_50_slim_FPN": 4,
}
# Not here, because Detectron2's own sampling of anchors and proposals, and its suppression of
# boxes, need values: Mask R-CNN, RetinaMask, and those whose boxes and masks have weights. Nor are
# label generators: peaks, clusters and instances are as many as the values say.


@pytest.fixture(scope="module")
def build():
    models = {}

    def build_once(name):
        if name not in models:
            options = (
                "MODEL.WEIGHTS '' MODEL.DEVICE cpu MODEL.SEM_SEG_HEAD.NUM_CLASSES 6 "
                "MODEL.IRNET.RADIUS 3 MODEL.AFFINITYNET.RADIUS 3 MODEL.CLASSIFIER.NUM_CLASSES 5"
            ).split()
            models[name] = build_model(merged_config(f"{ROOT}/configs/shapes/{name}.yaml", options))
        return models[name]

    return build_once


def _move(model: nn.Module, device: str) -> nn.Module:
    """As ``model.to(device)``, which cannot do it with tensors without values."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                module._parameters[name] = nn.Parameter(new, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return model


def _image():
    return {
        "file_name": "a.jpg",
        "image": torch.zeros(3, 96, 96, dtype=torch.uint8),
        "height": 96,
        "width": 96,
        "image_labels": torch.tensor([1, 3]),
        "image_counts": torch.tensor([1, 2]),
        "sem_seg": torch.zeros(96, 96, dtype=torch.int64),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_training_copies_its_inputs_to_the_device_and_nothing_else(build, name, device):
    model = build(name)
    with fake_gpu() as calls:
        losses = _move(model, device).train()([_image(), _image()])
        if device == "lazy":
            sum(losses.values()).backward()
    assert {loss.device.type for loss in losses.values()} == {device}
    assert len(calls.crossings) == MODELS[name]
    assert all(line.startswith("aten._to_copy.default: cpu") for line in calls.crossings)


@pytest.mark.parametrize("name", MODELS)
def test_inference_copies_the_image_to_the_device_and_nothing_else(build, name):
    model, x = build(name), _image()
    del x["sem_seg"]
    with fake_gpu() as calls, torch.no_grad():
        (output,) = _move(model, "cuda").eval()([x])
    assert {x.device.type for x in output.values()} == {"cuda"}
    assert len(calls.crossings) == 1
