"""Peak backpropagation against matrices written out by loops, and that it leaves no trace."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from wsis_d2.errors import UserError
from wsis_d2.layers import peak_response_maps


def conv_matrix(weight, size, stride, padding, dilation, groups):
    """A convolution as a matrix over flattened (C, H, W) arrays, and the size of its output."""
    num_out, group_in, kernel_h, kernel_w = weight.shape
    num_in, height, width = size
    out_h = (height + 2 * padding - dilation * (kernel_h - 1) - 1) // stride + 1
    out_w = (width + 2 * padding - dilation * (kernel_w - 1) - 1) // stride + 1
    matrix = np.zeros((num_out, out_h, out_w, num_in, height, width))
    for o, y, x, i, v, u in np.ndindex(num_out, out_h, out_w, group_in, kernel_h, kernel_w):
        row, column = (
            y * stride - padding + v * dilation,
            x * stride - padding + u * dilation,
        )
        if 0 <= row < height and 0 <= column < width:
            channel = o // (num_out // groups) * group_in + i
            matrix[o, y, x, channel, row, column] = weight[o, i, v, u]
    return matrix.reshape(num_out * out_h * out_w, -1), (num_out, out_h, out_w)


def conv_and_relevance(layer, x, size):
    """The result of a convolution and the matrix that takes its relevance to its input."""
    options = (layer.stride[0], layer.padding[0], layer.dilation[0], layer.groups)
    weight = layer.weight.detach().double().numpy()
    matrix, out_size = conv_matrix(weight, size, *options)
    positive, _ = conv_matrix(np.maximum(weight, 0), size, *options)
    y = matrix @ x
    if layer.bias is not None:
        y += np.repeat(layer.bias.detach().numpy(), out_size[1] * out_size[2])
    nonnegative = x - x.min()
    normaliser = positive @ nonnegative
    flow = np.zeros_like(positive.T)
    for k in range(len(y)):
        if normaliser[k] >= 1e-10:
            flow[:, k] = nonnegative * positive[k] / normaliser[k]
    return y, out_size, flow


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"stride": 1, "padding": 1}, {"stride": 1, "padding": 0}),
        ({"stride": 2, "padding": 1, "bias": False}, {"stride": 1, "padding": 2, "dilation": 2}),
        ({"stride": 1, "padding": 2, "dilation": 2}, {"stride": 2, "padding": 1, "groups": 2}),
    ],
)
def test_maps_equal_the_rule_written_as_matrices(first, second):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, **first), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3, **second)
    ).double()
    image = torch.randn(1, 3, 9, 8, dtype=torch.float64)

    hidden, hidden_size, flow1 = conv_and_relevance(network[0], image.numpy().ravel(), (3, 9, 8))
    response, size, flow2 = conv_and_relevance(network[2], np.maximum(hidden, 0), hidden_size)
    assert np.allclose(response, network(image).detach().numpy().ravel())

    peaks = torch.tensor([[0, 0, 1, 2], [0, 1, 0, 1], [0, 1, 2, 2]])
    maps = peak_response_maps(network, image, peaks)
    assert maps.shape == (3, 9, 8)
    for (_, c, y, x), found in zip(peaks.tolist(), maps.numpy()):
        one = np.zeros(size)
        one[c, y, x] = 1
        relevance = flow1 @ ((hidden > 0) * (flow2 @ one.ravel()))
        expected = relevance.reshape(3, 9, 8).sum(0).clip(min=0)
        assert expected.sum() > 0
        assert np.allclose(found, expected / expected.sum(), atol=1e-8)


def test_layers_other_than_convolutions_pass_their_gradient():
    # With one 1x1 convolution at the top the relevance is input * W+ / sum(input * W+) at the peak,
    # times the plain gradient of what lies below.
    torch.manual_seed(0)
    below = nn.Sequential(nn.BatchNorm2d(3), nn.Sigmoid(), nn.AvgPool2d(2)).double().eval()
    below[0].running_var.fill_(4.0)
    head = nn.Conv2d(3, 2, 1).double()
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    peak = torch.tensor([[0, 1, 2, 3]])

    leaf = image.clone().requires_grad_()
    features = below(leaf)
    positive = head.weight.detach()[1, :, 0, 0].clamp(min=0)
    relevance = (features - features.min())[0, :, 2, 3].detach() * positive
    (gradient,) = torch.autograd.grad(
        features[0, :, 2, 3], leaf, grad_outputs=relevance / relevance.sum()
    )
    expected = gradient.sum(1).clamp(min=0)
    found = peak_response_maps(nn.Sequential(below, head), image, peak)
    assert torch.allclose(found, expected / expected.sum(), atol=1e-9)


def small_network(norm=True, inplace=True):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=not norm),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(inplace),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding="same", groups=2),
        nn.ReLU(inplace),
        nn.Dropout(0.5),
        nn.Conv2d(8, 3, 1),
    )


def detectron2_network(norm="FrozenBN", freeze_at=2):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.RESNETS.merge_from_list(
        ["OUT_FEATURES", ["res5"], "NORM", norm, "STEM_OUT_CHANNELS", 8]
        + ["RES2_OUT_CHANNELS", 16, "WIDTH_PER_GROUP", 4]
    )

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = build_backbone(cfg)
            self.classifier = nn.Conv2d(128, 3, 1)

        def forward(self, images):
            return self.classifier(self.backbone(images)["res5"])

    return Classifier()


NETWORKS = {
    "batch norm": small_network,
    "no norm": lambda: small_network(norm=False),
    "not in place": lambda: small_network(norm=False, inplace=False),
    "detectron2, frozen": detectron2_network,
    "detectron2, batch norm": lambda: detectron2_network("BN", 0),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(1)
    return NETWORKS[request.param]().eval()


@pytest.fixture
def image():
    return torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(2))


def random_peaks(number, size):
    generator = torch.Generator().manual_seed(5)
    columns = [torch.randint(n, (number,), generator=generator) for n in (1, 3, *size)]
    return torch.stack(columns, 1)


def test_all_peaks_in_batches_equal_one_by_one(network, image):
    peaks = random_peaks(7, (8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # vmap warns where it falls back to a loop
        maps = peak_response_maps(network, image, peaks, upsample=4, peaks_per_batch=3)
    singly = [peak_response_maps(network, image, peak[None], upsample=4) for peak in peaks]
    assert maps.shape == (len(peaks), 64, 48)
    assert not maps.requires_grad
    assert (maps >= 0).all()
    assert torch.allclose(maps.sum((1, 2)), torch.ones(len(peaks)))
    assert torch.allclose(maps, torch.cat(singly), atol=1e-7)
    assert not torch.allclose(maps[0], maps[1], atol=1e-4)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_is_a_product_and_a_sum(image, affine):
    class ByHand(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            norm, scale = self.norm, (self.norm.running_var + self.norm.eps) ** -0.5
            x = (x - norm.running_mean[:, None, None]) * scale[:, None, None]
            return x * norm.weight[:, None, None] + norm.bias[:, None, None] if affine else x

    norm = nn.BatchNorm2d(6, affine=affine)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(generator=torch.Generator().manual_seed(3))
    norm.running_var.abs_()
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 3)
    found, expected = (
        peak_response_maps(
            nn.Sequential(first, middle, nn.ReLU(), second).double().eval(),
            image.double(),
            random_peaks(4, (20, 20)),
        )
        for middle in (norm, ByHand(norm))
    )
    assert expected.sum() > 0
    assert torch.allclose(found, expected, atol=1e-12)


def test_one_forward_and_one_backward_per_batch(image):
    network = small_network().eval()
    passes = []

    def count(module, inputs, output):
        passes.append("forward")
        output.register_hook(lambda gradient: passes.append("backward"))

    network[0].register_forward_hook(count)
    peak_response_maps(network, image, random_peaks(7, (16, 12)), peaks_per_batch=4)
    assert passes == ["forward", "backward", "backward"]


def test_convolutions_run_once_per_batch(network, image):
    def convolutions(number):
        with torch.profiler.profile() as profile:
            peak_response_maps(network, image, random_peaks(number, (2, 2)), peaks_per_batch=8)
        return sum(event.name.startswith("aten::conv") for event in profile.events())

    assert 0 < convolutions(8) == convolutions(2)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_untouched(network, image, training):
    network.train(training)
    next(network.children()).eval()  # flags differ from module to module
    for parameter in list(network.parameters())[::2]:
        parameter.requires_grad_(False)
    peaks = torch.tensor([[0, 0, 0, 0], [0, 2, 1, 1]])
    original = image.clone()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    flags = [m.training for m in network.modules()]
    required = [p.requires_grad for p in network.parameters()]
    attributes = [dict(vars(m)) for m in network.modules()]
    with torch.no_grad():
        peak_response_maps(network, image, peaks)

    assert torch.equal(image, original)
    assert not image.requires_grad
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in state.items())
    assert [m.training for m in network.modules()] == flags
    assert [p.requires_grad for p in network.parameters()] == required
    assert all(p.grad is None for p in network.parameters())
    assert [vars(m).keys() for m in network.modules()] == [a.keys() for a in attributes]
    assert all("forward" not in vars(m) for m in network.modules())

    # And convolutions have their ordinary gradient again.
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.conv2d(x, -torch.ones(1, 3, 1, 1)).sum(), x)
    assert torch.equal(gradient, -torch.ones_like(x))


def test_the_mode_of_the_network_does_not_matter(image):
    torch.manual_seed(3)
    network = small_network()
    network(torch.randn(4, 3, 32, 32))  # running statistics other than 0 and 1
    peaks = torch.tensor([[0, 1, 4, 5]])
    expected = peak_response_maps(network.eval(), image, peaks)
    assert torch.equal(peak_response_maps(network.train(), image, peaks), expected)
    # A method of a module stands for its module.
    assert torch.equal(peak_response_maps(network.train().forward, image, peaks), expected)


def test_an_error_of_the_network_leaves_it_untouched(image):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)).train()
    with pytest.raises(RuntimeError):
        peak_response_maps(network, image, torch.tensor([[0, 0, 0, 0]]))
    assert all(m.training for m in network.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_and_autocast_around_the_call_do_not_matter(context, image):
    torch.manual_seed(4)
    network = small_network().eval()
    peaks = torch.tensor([[0, 0, 3, 3]])
    expected = peak_response_maps(network, image, peaks)
    with context(), torch.autocast("cpu", torch.bfloat16):
        found = peak_response_maps(network, image.clone(), peaks)
    assert torch.equal(found, expected)


def test_no_relevance_gives_a_map_of_zeros(image):
    network = nn.Conv2d(3, 1, 3)
    with torch.no_grad():
        network.weight.copy_(-network.weight.abs())
    maps = peak_response_maps(network, image, torch.tensor([[0, 0, 1, 1]]))
    assert maps.shape == (1, 64, 48)
    assert not maps.any()


def test_no_relevance_flows_where_the_normaliser_is_next_to_nothing():
    network = nn.Conv2d(3, 1, 3, bias=False).double()
    nn.init.constant_(network.weight, 1)
    image = torch.rand(1, 3, 5, 5, dtype=torch.float64)
    peaks = torch.tensor([[0, 0, 1, 1]])
    assert peak_response_maps(network, image * 1e-9, peaks).any()
    assert not peak_response_maps(network, image * 1e-13, peaks).any()


def test_no_peaks_give_no_maps(image):
    maps = peak_response_maps(small_network(), image, torch.zeros((0, 4), dtype=torch.int64))
    assert maps.shape == (0, 64, 48)


def test_wrong_input_is_refused(image):
    network, peaks = small_network(), torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="takes one image"):
        peak_response_maps(network, image.expand(2, -1, -1, -1), peaks)
    for wrong in (peaks[:, :3], peaks + 1):
        with pytest.raises(ValueError, match="peaks must be"):
            peak_response_maps(network, image, wrong)


class SamePadded(nn.Conv2d):
    """TensorFlow's "same": what the stride asks for, more of it below and to the right."""

    def forward(self, x):
        missing = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(x.shape[2:], self.stride, self.dilation, self.kernel_size)
        ]
        (top, left) = (n // 2 for n in missing)
        return super().forward(F.pad(x, (left, missing[1] - left, top, missing[0] - top)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *(nn.Conv2d(channels, 3, 1), nn.SiLU(), nn.Conv2d(3, channels, 1), nn.Sigmoid()),
        )

    def forward(self, x):
        return x * self.gate(x)


class LinearOverChannels(nn.Linear):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GateOfNeighbours(nn.Conv1d):
    """A 1-d convolution along the channels makes the gate (ECA)."""

    def forward(self, x):
        return x * super().forward(x.mean((2, 3))[:, None]).sigmoid().view(1, -1, 1, 1)


BLOCKS = {
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depthwise, two outputs per channel": lambda: nn.Conv2d(6, 12, 3, groups=6),
    "grouped, strided": lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3),
    "depthwise, dilated": lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
    "same padding": lambda: SamePadded(6, 6, 3, stride=2, groups=6),
    "ReLU6": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU6(True)),
    "SiLU": lambda: nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(6, 6, 3, groups=6), nn.SiLU()),
    "squeeze and excitation": lambda: SqueezeExcite(6),
    "1-d gate": lambda: GateOfNeighbours(1, 1, 3, padding=1),
    "linear": lambda: nn.Sequential(LinearOverChannels(6, 8), nn.GELU()),
}


def block_network(block):
    layers = BLOCKS[block]()
    with torch.no_grad():
        channels = layers(torch.zeros(1, 6, 9, 8)).shape[1]
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), layers, nn.Conv2d(channels, 2, 1)
    )
    network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # some inputs of ReLU6 beyond 6
    return network


def as_matrix(module, x, weight):
    """The matrix of a linear module with other weights, from what it makes of unit inputs."""
    units = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    options = (module.stride, module.padding, module.dilation, module.groups)
    return F.conv2d(units, weight, None, *options).flatten(1).T


class RuleByMatrix(torch.autograd.Function):
    """Eq. 5 and 6 written out with a matrix of W+."""

    @staticmethod
    def forward(ctx, x, output, matrix):
        ctx.save_for_backward(x, matrix)
        return output.clone()

    @staticmethod
    def backward(ctx, relevance):
        x, matrix = ctx.saved_tensors
        nonnegative = (x - x.min()).flatten()
        normaliser = matrix @ nonnegative
        share = torch.zeros_like(normaliser)
        flows = normaliser >= 1e-10
        share[flows] = relevance.flatten()[flows] / normaliser[flows]
        return (nonnegative * (matrix.T @ share)).view_as(x), None, None


def relevance_by_matrices(network, image, peak):
    """One peak, one backward pass: hooks put the matrices in the place of the convolutions."""

    def patched(module, original):
        def run(x, weight, bias):
            with torch.no_grad():
                output = original(x, weight, bias)
                matrix = as_matrix(module, x, weight.clamp(min=0))
            return RuleByMatrix.apply(x, output, matrix)

        return run

    leaf = image.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                patch.setattr(module, "_conv_forward", patched(module, module._conv_forward))
        response = network(leaf)
    (gradient,) = torch.autograd.grad(response[tuple(peak.tolist())], leaf)
    relevance = gradient[0].sum(0).clamp(min=0)
    return relevance / relevance.sum() if relevance.any() else relevance


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_mobile_networks_equal_a_loop_over_peaks_and_matrices(block):
    torch.manual_seed(2)
    network = block_network(block)
    image = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    peaks = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 3, 2]])
    maps = peak_response_maps(network, image, peaks, peaks_per_batch=2)
    expected = torch.stack([relevance_by_matrices(network, image, peak) for peak in peaks])
    assert (expected.sum((1, 2)) > 0.99).sum() >= 2  # a class may have no positive weight
    assert torch.allclose(maps, expected, atol=1e-8)


def test_a_grouped_convolution_equals_the_dense_one_with_zeros():
    # So that the minimum is that of the whole tensor, not of a group.
    torch.manual_seed(2)
    grouped, dense = nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(6, 4, 3)
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[:2, :3], dense.weight[2:, 3:] = grouped.weight[:2], grouped.weight[2:]
        dense.bias.copy_(grouped.bias)
    first, last = nn.Conv2d(3, 6, 3), nn.Conv2d(4, 2, 1)
    image, peaks = torch.randn(1, 3, 9, 8), torch.tensor([[0, 1, 2, 1]])
    maps = [
        peak_response_maps(nn.Sequential(first, layer, last), image, peaks)
        for layer in (grouped, dense)
    ]
    assert torch.allclose(*maps, atol=1e-7)


class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.convolution, self.attend = nn.Conv2d(3, 4, 3), attend

    def forward(self, image):
        x = self.convolution(image)
        tokens = x.flatten(2).transpose(1, 2)
        return self.attend(tokens).transpose(1, 2).view_as(x)


@pytest.mark.parametrize(
    "attend",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
        lambda x: torch.bmm(x, x.transpose(1, 2)).matmul(x),
        lambda x: torch.einsum("bic,bjc,bjd->bid", x, x, x),
        lambda x: nn.MultiheadAttention(4, 2, batch_first=True)(x, x, x)[0],
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ],
    ids=["fused", "products", "batched", "einsum", "multi-head", "encoder layer"],
)
def test_attention_is_refused(attend, image):
    network = Attention(attend).train()
    with pytest.raises(UserError, match="no rule for attention.*convolutional backbone"):
        peak_response_maps(network, image[..., :8, :8], torch.tensor([[0, 0, 1, 1]]))
    assert network.training


def test_a_network_without_a_visible_convolution_is_refused(image):
    peaks = torch.tensor([[0, 0, 1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(small_network().eval(), image)
    for network in (nn.AvgPool2d(2), scripted):
        with pytest.raises(UserError, match="saw no convolution"):
            peak_response_maps(network, image, peaks)
