"""Class-agnostic instances from a displacement field (IRNet, section 5.1 and supplement)."""

from __future__ import annotations

import scipy.ndimage
import torch
from torch import Tensor

__all__ = ["cluster_centroids", "find_centroids"]

#: Step of the first look for trajectories that have met. Later ones are farther apart, since a GPU
#: waits for the CPU at every one.
FIRST_LOOK = 10


@torch.no_grad()
def find_centroids(displacement: Tensor, num_iters: int = 300) -> Tensor:
    """Follow the displacement field from each pixel to its centroid: p <- p + D(p).

    D is sampled bilinearly, and positions are held inside the map. The result is that of
    ``num_iters`` steps of every pixel, but trajectories that meet are followed once from there on,
    and none once they all stand still.

    Args:
        displacement: (2, H, W) float, (dy, dx) in pixels of the map.
        num_iters: steps; at least 100 are needed to arrive.

    Returns:
        (2, H, W) int64, y and x of each pixel's centroid, rounded half to even.

    Raises:
        ValueError: the shape is another, or a displacement is infinite or not a number.
    """
    displacement = _checked_displacement(displacement)
    _, height, width = displacement.shape
    # Sampled in double precision, but positions are rounded to single precision after each step,
    # as in the published code: the many pixels of an instance then soon share one position.
    field = displacement.double().flatten(1)
    last = torch.tensor([[height - 1], [width - 1]], device=field.device)
    rows = torch.arange(height, device=field.device)
    columns = torch.arange(width, device=field.device)
    position = torch.cartesian_prod(rows, columns).T.float().contiguous()

    trajectory = torch.arange(height * width, device=field.device)
    next_look = FIRST_LOOK
    for step in range(1, num_iters + 1):
        moved = (position + _sample(field, width, position)).float()
        moved = torch.minimum(moved.clamp_(min=0), last)
        if step == next_look:
            next_look += max(FIRST_LOOK, step // 2)
            if torch.equal(moved, position):
                break
            moved, merged = _merge_equal(moved)
            trajectory = merged[trajectory]
        position = moved
    return position.round().long()[:, trajectory].view(2, height, width)


@torch.no_grad()
def cluster_centroids(centroids: Tensor, displacement: Tensor, threshold: float = 2.5) -> Tensor:
    """Group the pixels whose centroids fall into the same region of small displacements.

    The regions are the 4-connected pieces of the map where |D| is below the threshold. Pixels whose
    centroid is in none of them are one more group, the first.

    Args:
        centroids: (2, H, W) int, from :func:`find_centroids`.
        displacement: (2, H, W) float, (dy, dx) in pixels of the map.
        threshold: in pixels of the map.

    Returns:
        (H, W) int64 labels, 0 to the number of groups - 1.

    Raises:
        ValueError: a shape is another, or a displacement is infinite or not a number.
    """
    displacement = _checked_displacement(displacement)
    centroids = torch.as_tensor(centroids).to(displacement.device).long()
    if centroids.shape != displacement.shape:
        raise ValueError(
            f"centroids {tuple(centroids.shape)} do not match the displacement "
            f"{tuple(displacement.shape)}"
        )
    is_small = torch.linalg.vector_norm(displacement, dim=0) < threshold
    # The only trip to the CPU: one byte per pixel there, one label back.
    regions, _ = scipy.ndimage.label(is_small.cpu().numpy())
    regions = torch.from_numpy(regions).to(displacement.device)
    y, x = centroids
    return regions[y, x].unique(return_inverse=True)[1]


def _checked_displacement(displacement: Tensor) -> Tensor:
    displacement = torch.as_tensor(displacement).float()
    if displacement.dim() != 3 or len(displacement) != 2:
        raise ValueError(f"displacement must be (2, H, W), got {tuple(displacement.shape)}")
    if not displacement.isfinite().all():
        raise ValueError("the displacement field has infinite values or NaN")
    return displacement


def _sample(field: Tensor, width: int, position: Tensor) -> Tensor:
    """Bilinear values (2, P) of a (2, H W) field at positions (2, P) inside the map."""
    above, below = position.floor(), position.ceil()
    bottom, right = (position - above).double()
    top, left = 1 - bottom, 1 - right
    (y0, x0), (y1, x1) = above.long(), below.long()
    y0, y1 = y0 * width, y1 * width
    return (
        field[:, y1 + x1] * (bottom * right)
        + field[:, y0 + x1] * (top * right)
        + field[:, y1 + x0] * (bottom * left)
        + field[:, y0 + x0] * (top * left)
    )


def _merge_equal(position: Tensor) -> tuple[Tensor, Tensor]:
    """The different ones of P float32 positions (2, P), and for each of P the index of its own."""
    both_axes_as_one = position.T.contiguous().view(torch.int64).squeeze(1)
    different, index = both_axes_as_one.unique(return_inverse=True)
    return different.unsqueeze(1).view(torch.float32).T.contiguous(), index
