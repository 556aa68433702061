"""Peak backpropagation: which pixels of the image made a class peak.

Source: Zhou et al., "Weakly Supervised Instance Segmentation using Class Peak Response", CVPR 2018,
section 3.2; the constants are those of the published code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError

__all__ = ["peak_response_maps"]

# Where the normaliser of a convolution is below this, no relevance flows.
_EPS = 1e-10

# Their weights may depend on the image, as in attention: no share of W+ is theirs. Functions that
# call others within PyTorch are listed too, since the mode does not see the inner calls.
_PRODUCTS = {
    *("scaled_dot_product_attention", "multi_head_attention_forward"),
    *("_native_multi_head_attention", "einsum", "matmul", "__matmul__", "__rmatmul__"),
    *("linalg_matmul", "mm", "addmm", "bmm", "baddbmm", "tensordot"),
}


def peak_response_maps(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    peaks: Tensor,
    upsample: int = 1,
    peaks_per_batch: int = 16,
) -> Tensor:
    """Trace class peaks back to the pixels of the image that caused them.

    Relevance starts as a 1 at the peak and goes down the network. In a convolution of the input x
    with weights W it is shared out in proportion to what each input contributes through positive
    weights (eq. 5, 6)::

        r_in = (x - min x) * conv_T(r_out / conv(x - min x, W+), W+)

    Every other layer passes its ordinary gradient. What reaches the image is summed over channels,
    clamped at 0 and normalised.

    The minimum is that of the whole input tensor, as in the published code. Supported are:

    * Convolutions of any stride, padding, dilation and number of groups: a grouped or depthwise one
      gives what the dense one of the same weights and zeros elsewhere gives. Padding that stands in
      front of the convolution (TensorFlow's "same") is input like any other: its zeros lie above a
      negative minimum, and the relevance that they draw is lost.
    * Activations and normalisation of every kind (ReLU6, SiLU, GELU ...), linear layers, and
      transposed, deformable and one-dimensional convolutions: their ordinary gradient, as published
      for what is no convolution of the image.
    * Squeeze-and-excitation: the product passes its gradient to both factors, so that the gate's
      convolutions take relevance too, which its pooling spreads evenly over the image.

    Refused are attention and other matrix products, to which the rule does not extend, and networks
    where no convolution is seen: scripted and compiled ones bypass the rule.

    The network runs forward once and backward once per ``peaks_per_batch`` peaks. It is left as it
    was: nothing is patched, no gradient is kept, and where it was training it runs in evaluation
    mode for the time of the call.

    Args:
        network: maps (1, 3, H, W) to class response maps (1, C, h, w): a module or any callable.
        image: (1, 3, H, W) float, as the network takes it.
        peaks: (P, 4) int64: 0, class, y, x in the upsampled class response maps.
        upsample: the class response maps are upsampled by this factor (bilinear, corners aligned)
            before the peaks index them.
        peaks_per_batch: peaks per backward pass; memory grows with it. On a CPU and large images,
            small batches are as fast as large ones.

    Returns:
        (P, H, W) float, non-negative; each map sums to 1, or is 0 where no relevance arrives.

    Raises:
        ValueError: more than one image, or peaks of another shape or image.
        UserError: the network has attention or another matrix product, or no convolution that
            Python calls.
    """
    image, peaks = torch.as_tensor(image), torch.as_tensor(peaks)
    if image.dim() != 4 or image.shape[0] != 1:
        raise ValueError(
            f"peak backpropagation takes one image (1, C, H, W), got {tuple(image.shape)}"
        )
    if peaks.dim() != 2 or peaks.shape[1] != 4 or peaks[:, 0].any():
        raise ValueError("peaks must be (P, 4): image (0 for the only one), class, y, x")
    if len(peaks) == 0:
        return image.new_zeros((0, *image.shape[-2:]))

    with (
        _evaluating(network),
        torch.inference_mode(False),
        torch.enable_grad(),
        # Half precision would lose normalisers near the threshold.
        torch.autocast(image.device.type, enabled=False),
    ):
        image = image.detach().clone().requires_grad_()
        with _RelevanceRule() as rule:
            maps = network(image)
        if not rule.applied:
            raise UserError(
                "Peak backpropagation saw no convolution in the network: "
                "give it a convolutional one, neither scripted nor compiled"
            )
        if upsample != 1:
            maps = F.interpolate(maps, scale_factor=upsample, mode="bilinear", align_corners=True)
        _, classes, y, x = peaks.to(maps.device).unbind(1)
        responses = maps[0, classes, y, x]
        one_hot = torch.eye(len(peaks), dtype=responses.dtype, device=responses.device)
        # torch.func's vmap batches the convolutions; autograd's own is_grads_batched loops in them.
        backward = torch.func.vmap(
            lambda start: torch.autograd.grad(responses, image, start, retain_graph=True)[0]
        )
        relevance = torch.cat([backward(batch) for batch in one_hot.split(peaks_per_batch)])

    relevance = relevance.detach().sum(2).squeeze(1).clamp(min=0)
    total = relevance.sum((1, 2), keepdim=True)
    return relevance / total.masked_fill(total == 0, 1)


class _RelevanceRule(TorchFunctionMode):
    """While active, convolutions keep their result but get the backward pass of eq. 5."""

    def __init__(self) -> None:
        super().__init__()
        self.applied = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.conv2d:
            self.applied = True
            return _relevance_conv2d(*args, **kwargs)
        if func is F.batch_norm:
            return _scaling_batch_norm(*args, **kwargs)
        if getattr(func, "__name__", "") in _PRODUCTS:
            raise UserError(
                "Peak backpropagation has no rule for attention and other matrix products "
                f"({func.__name__}): take a convolutional backbone for PRM, or CAMs with this one"
            )
        return func(*args, **kwargs)


def _relevance_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs
) -> Tensor:
    """conv2d whose gradient is relevance; further arguments are stride, padding and so on."""
    with torch.no_grad():
        nonnegative = input - input.min()
        positive_weight = weight.clamp(min=0)
    contribution = _Substitute.apply(input, nonnegative, nonnegative.clone)
    normaliser = F.conv2d(contribution, positive_weight, None, *args, **kwargs)
    with torch.no_grad():
        share = torch.where(normaliser < _EPS, 0, 1 / (normaliser + _EPS))

    def forward() -> Tensor:
        return F.conv2d(input, weight, bias, *args, **kwargs)

    return _Substitute.apply(normaliser, share, forward)


def _scaling_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """batch_norm whose gradient by fixed statistics is a factor per channel, nothing else.

    PyTorch's own is the same, but under vmap it copies the gradients of all peaks several times.
    """

    def forward() -> Tensor:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    if training or input.dim() != 4:
        return forward()
    with torch.no_grad():
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
    return _Substitute.apply(input, scale[:, None, None], forward)


class _Substitute(torch.autograd.Function):
    """Another function's value, and a gradient that is the source's times a factor."""

    @staticmethod
    def forward(ctx, source: Tensor, factor: Tensor, value: Callable[[], Tensor]) -> Tensor:
        """``source`` is there for its gradient alone; ``value`` gives a new tensor."""
        ctx.save_for_backward(factor)
        return value()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None


@contextmanager
def _evaluating(network: Callable) -> Iterator[None]:
    """Put a module, or the module that a method belongs to, into evaluation mode; then restore."""
    owner = network if isinstance(network, nn.Module) else getattr(network, "__self__", None)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, training):
            module.training = flag
