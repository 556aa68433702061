"""The seeds of a training batch, at the stride of the maps that are trained on them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..layers import UNKNOWN

__all__ = ["batch_seeds", "check_map_size"]


def batch_seeds(batched_inputs: list[dict], size: tuple[int, int], stride: int) -> Tensor:
    """Reduce each image's seeds to a map's cells: the label at the centre of the cell.

    Args:
        batched_inputs: with "sem_seg", (H, W) integers: 0 background, c + 1 class c, 255 unknown.
        size: (h, w) of the map; its part outside of an image is unknown.
        stride: of the map.

    Returns:
        (N, h, w) uint8.

    Raises:
        UserError: an image came without seeds.
    """
    height, width = size
    cells = []
    for x in batched_inputs:
        if "sem_seg" not in x:
            raise UserError(
                f"{x.get('file_name', 'an image without a file name')} came to training without "
                "'sem_seg': set DATASETS.SUPERVISION to 'seeds' and SEEDS.PATH to their folder"
            )
        seeds = torch.as_tensor(x["sem_seg"]).to(torch.uint8)
        right, bottom = width * stride - seeds.shape[1], height * stride - seeds.shape[0]
        padded = F.pad(seeds, (0, right, 0, bottom), value=UNKNOWN)
        cells.append(padded[stride // 2 :: stride, stride // 2 :: stride])
    return torch.stack(cells)


def check_map_size(seeds: Tensor, radius: int, stride: int) -> None:
    """Check that (N, h, w) seeds have room for one pixel with all of its neighbours.

    Raises:
        UserError: they have not.
    """
    height, width = seeds.shape[-2:]
    if height < radius or width < 2 * radius - 1:
        raise UserError(
            f"the images of a training batch are at most {height * stride} x {width * stride} "
            f"pixels, too small for pairs of cells of {stride} pixels at a distance below {radius} "
            f"({radius * stride} x {(2 * radius - 1) * stride} are needed): set "
            "INPUT.IMAGE_LEVEL.CROP_SIZE to the greater of these, or a smaller RADIUS"
        )
