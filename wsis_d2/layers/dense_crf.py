"""Dense CRF: labels that follow the edges of the image.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011: mean-field inference with a smoothness kernel over positions and an
appearance kernel over positions and colours (section 4, eq. 3). On a CPU by their library where it
is installed; on other devices, and without it, by the same filtering in tensor operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .permutohedral import PermutohedralLattice


@dataclass(frozen=True)
class CRFSettings:
    """Settings of the inference; the defaults are IRNet's published ones.

    Attributes:
        num_iters: iterations of the mean field.
        gaussian_sxy: standard deviation of the smoothness kernel, in pixels.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation of the appearance kernel in space, in pixels.
        bilateral_srgb: its standard deviation in colour, in gray levels (0 to 255).
        bilateral_compat: its weight.
        gt_prob: probability that a hard label is right, in (0, 1).
    """

    num_iters: int = 10
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    gt_prob: float = 0.7


def dense_crf_from_labels(
    image: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    num_labels: int,
    settings: CRFSettings | None = None,
) -> np.ndarray | Tensor:
    """Refine a map of hard labels, each of which is right with probability ``gt_prob``.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int in 0 .. num_labels - 1; or (N, H, W), several maps of the one image, each
            refined by itself: the kernels, half of the work, are then made once.
        num_labels: number of labels.
        settings: of the CRF; None: IRNet's.

    Returns:
        int64 labels of the same shape: an array for an array, a tensor on its device for a tensor.

    Raises:
        ValueError: wrong shapes, types or labels; or standard deviations that are too small for
            the size of the image.
    """
    settings = settings or CRFSettings()
    given, labels = labels, torch.as_tensor(labels)
    if labels.ndim not in (2, 3):
        raise ValueError(f"labels must be (H, W) or (N, H, W), got {tuple(labels.shape)}")
    image = _check_image(image, labels.shape[-2:])
    if labels.is_floating_point() or not 0 <= labels.min() <= labels.max() < num_labels:
        raise ValueError(f"labels must be integers in 0 .. {num_labels - 1}")
    if num_labels == 1:
        refined = torch.zeros_like(labels, dtype=torch.int64)
    else:
        wrong = (1 - settings.gt_prob) / (num_labels - 1)
        every_label = torch.arange(num_labels, device=labels.device)[:, None, None]
        right = labels[..., None, :, :] == every_label
        probabilities = torch.where(right, settings.gt_prob, wrong)
        refined = _infer(image, probabilities, settings).argmax(-3)
    return refined if isinstance(given, Tensor) else refined.numpy()


def dense_crf_from_scores(
    image: np.ndarray | Tensor,
    scores: np.ndarray | Tensor,
    settings: CRFSettings | None = None,
) -> np.ndarray | Tensor:
    """Refine a score of each label at each pixel.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (L, H, W) float in [0, 1], taken as probabilities and clipped to [1e-5, 1]; they
            need not add up to 1. Or (N, L, H, W), see :func:`dense_crf_from_labels`.
        settings: of the CRF; None: IRNet's.

    Returns:
        float32 probabilities of the same shape that add up to 1 over the labels: an array for an
        array, a tensor on its device for a tensor.

    Raises:
        ValueError: see :func:`dense_crf_from_labels`.
    """
    given, scores = scores, torch.as_tensor(scores).detach()
    if scores.ndim not in (3, 4):
        raise ValueError(f"scores must be (L, H, W) or (N, L, H, W), got {tuple(scores.shape)}")
    image = _check_image(image, scores.shape[-2:])
    refined = _infer(image, scores.clamp(1e-5, 1), settings or CRFSettings())
    return refined if isinstance(given, Tensor) else refined.numpy()


def _infer(image: Tensor, probabilities: Tensor, settings: CRFSettings) -> Tensor:
    """Mean-field inference from (L, H, W) or (N, L, H, W) probabilities above 0."""
    log_probabilities = probabilities.log().float()
    shape = log_probabilities.shape
    log_probabilities = log_probabilities.reshape(-1, *shape[-3:])
    if probabilities.device.type == "cpu":
        try:
            return infer_by_library(image, log_probabilities, settings).view(shape)
        except ImportError:
            pass  # the optional package
    return infer_by_tensors(image, log_probabilities, settings).view(shape)


def infer_by_library(image: Tensor, log_probabilities: Tensor, settings: CRFSettings) -> Tensor:
    """Mean-field inference by the authors' library, on the CPU.

    Args:
        image: (H, W, 3) uint8 RGB.
        log_probabilities: (N, L, H, W) float32.
        settings: of the CRF.

    Returns:
        (N, L, H, W) float32 probabilities.

    Raises:
        ImportError: pydensecrf2 is not installed.
    """
    from pydensecrf.densecrf import DenseCRF2D

    num_labels, height, width = log_probabilities.shape[1:]
    crf = DenseCRF2D(width, height, num_labels)
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        # The library takes writable, contiguous memory only.
        rgbim=np.array(image.cpu(), order="C"),
        compat=settings.bilateral_compat,
    )
    energies = (-log_probabilities).flatten(2).contiguous().cpu().numpy()
    refined = np.empty_like(energies)
    for energy, result in zip(energies, refined):
        crf.setUnaryEnergy(energy)
        result[:] = crf.inference(settings.num_iters)
    return torch.from_numpy(refined).view_as(log_probabilities)


@torch.no_grad()
def infer_by_tensors(image: Tensor, log_probabilities: Tensor, settings: CRFSettings) -> Tensor:
    """Mean-field inference by tensor operations, on the device of ``log_probabilities``.

    See :func:`infer_by_library`, whose labels are the same at more than 99 % of the pixels.

    Raises:
        ValueError: standard deviations that are too small for the size of the image.
    """
    number, num_labels, height, width = log_probabilities.shape
    device = log_probabilities.device
    ys, xs = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    places = torch.stack([xs, ys], -1).flatten(0, 1).float()
    colors = image.to(device).flatten(0, 1).float()
    appearance = [places / settings.bilateral_sxy, colors / settings.bilateral_srgb]
    kernels = [
        (settings.gaussian_compat, _Kernel(places / settings.gaussian_sxy)),
        (settings.bilateral_compat, _Kernel(torch.cat(appearance, 1))),
    ]
    # One row for each pixel: the labels of all maps beside each other.
    unary = log_probabilities.flatten(2).permute(2, 0, 1)
    marginals = unary.softmax(-1)
    for _ in range(settings.num_iters):
        rows = marginals.flatten(1)
        messages = sum(compat * kernel.apply(rows) for compat, kernel in kernels)
        marginals = (unary + messages.view_as(unary)).softmax(-1)
    return marginals.permute(1, 2, 0).reshape(number, num_labels, height, width)


class _Kernel:
    """A Gaussian kernel K of (P, d) features with symmetric normalisation: D^-1/2 K D^-1/2."""

    def __init__(self, features: Tensor):
        self.lattice = PermutohedralLattice(features)
        self.scale = self.lattice.filter(features.new_ones(len(features), 1)).rsqrt()

    def apply(self, values: Tensor) -> Tensor:
        return self.scale * self.lattice.filter(self.scale * values)


def _check_image(image: np.ndarray | Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(image.shape) != (*size, 3) or image.dtype not in (np.uint8, torch.uint8):
        raise ValueError(
            f"image must be (H, W, 3) uint8 of the labels' size {tuple(size)}, got "
            f"{tuple(image.shape)} {image.dtype}"
        )
    # A copy where PyTorch cannot share an array: one that is reversed or must not be written.
    return image if isinstance(image, Tensor) else torch.from_numpy(image.copy(order="C"))
