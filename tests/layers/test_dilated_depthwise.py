"""Dilated depthwise convolutions by phases, against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from wsis_d2.layers import DilatedDepthwiseConv2d, convert_dilated_depthwise, peak_response_maps


def conv(kernel=3, dilation=2, channels=6, **options):
    torch.manual_seed(0)
    options.setdefault("padding", dilation * (kernel - 1) // 2)
    options.setdefault("groups", channels)
    return nn.Conv2d(channels, channels, kernel, dilation=dilation, **options).double()


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (3, 4), (5, 2), (5, 3), (1, 2)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1), (3, 16)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_same_result_and_gradients(kernel, dilation, size, bias, memory_format):
    stock = conv(kernel, dilation, bias=bias)
    converted = convert_dilated_depthwise(copy.deepcopy(stock))
    assert type(converted) is DilatedDepthwiseConv2d
    x = torch.randn(2, 6, *size).double().contiguous(memory_format=memory_format)
    upstream, results = torch.randn(2, 6, *size).double(), []
    for module in (stock, converted):
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(image)
        y.backward(upstream)
        results.append([y.detach(), image.grad, *(p.grad for p in module.parameters())])
    for expected, got in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_each_axis_has_a_dilation_of_its_own():
    torch.manual_seed(0)
    stock = nn.Conv2d(4, 4, (3, 5), dilation=(3, 1), padding=(3, 2), groups=4)
    converted = convert_dilated_depthwise(copy.deepcopy(stock))
    assert type(converted) is DilatedDepthwiseConv2d
    x = torch.randn(1, 4, 10, 7)
    assert torch.allclose(converted(x), stock(x), atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        conv(dilation=1),
        conv(groups=1),
        conv(groups=3),
        conv(padding=0),
        conv(stride=2),
        conv(padding_mode="reflect"),
        conv(kernel=2, padding=1),
        conv(padding="same"),
        conv(channels=1),
    ],
    ids=["undilated", "dense", "grouped", "unpadded", "stride", "reflect", "even", "same", "one"],
)
def test_others_are_left_alone(other):
    assert type(convert_dilated_depthwise(other)) is nn.Conv2d


def test_names_weights_and_modes_stay():
    network = nn.Sequential(conv(), nn.Conv2d(6, 2, 1))
    weights, number = copy.deepcopy(network.state_dict()), len(list(network.modules()))
    network.eval()
    converted = convert_dilated_depthwise(network)
    assert converted is network
    assert not network[0].training
    assert len(list(network.modules())) == number
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])


class Convolutions(torch.overrides.TorchFunctionMode):
    """Writes down the dilation of every convolution."""

    def __init__(self):
        super().__init__()
        self.dilations = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.conv2d:
            self.dilations.append((kwargs or {}).get("dilation", (*args, *[1] * 7)[5]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("training", "grad", "learns", "dilation"),
    [(True, True, True, 1), (False, True, True, 2), (True, False, True, 2), (True, True, False, 2)],
)
def test_only_where_it_learns(training, grad, learns, dilation):
    module = convert_dilated_depthwise(conv()).train(training).requires_grad_(learns)
    with torch.set_grad_enabled(grad), Convolutions() as seen:
        module(torch.randn(1, 6, 4, 4).double())
    assert [d if isinstance(d, int) else max(d) for d in seen.dilations] == [dilation]


def test_peaks_are_traced_back_as_through_the_ordinary_one():
    network = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(6, 2, 1).double()).eval()
    image, peaks = torch.rand(1, 6, 7, 7).double(), torch.tensor([[0, 1, 3, 2]])
    expected = peak_response_maps(network, image, peaks)
    got = peak_response_maps(convert_dilated_depthwise(network), image, peaks)
    assert torch.equal(got, expected)
    assert expected.max() > 0
