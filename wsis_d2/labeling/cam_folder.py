"""The stored CAMs of the dataset that is labelled."""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..data import label_dataset_name
from ..data.image_folder import ImageFolder
from ..errors import UserError
from .cam_files import read_cam, reduced_cam


class CAMFolder:
    """CAMs by image, as ``tools/make_cams.py`` stores them.

    Args:
        folder: the folder.
        stride: stride of the maps.
    """

    @configurable
    def __init__(self, *, folder: ImageFolder, stride: int):
        self.folder = folder
        self.stride = stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``CAM`` and the dataset to label."""
        return {
            "folder": ImageFolder(cfg.CAM.PATH, ".npz", label_dataset_name(cfg), "CAM.PATH"),
            "stride": cfg.CAM.STRIDE,
        }

    def get(self, x: dict) -> tuple[Tensor, Tensor]:
        """CAMs of an image.

        Args:
            x: dict with ``file_name`` and ``image_labels``; where the image was reduced, with what
                :func:`~wsis_d2.labeling.image_size.reduce_input` gives.

        Returns:
            See :func:`wsis_d2.labeling.read_cam`; on the grid of the image as it is in ``x``.

        Raises:
            UserError: the file is missing, damaged, or of other labels than the image's.
        """
        path = self.folder.path(x)
        cam, class_ids = read_cam(path)
        if sorted(class_ids.tolist()) != sorted(map(int, x["image_labels"])):
            raise UserError(
                f"the CAMs in {path} are of other classes than the image's labels: the labels or "
                "the dataset have changed, so make the CAMs again with tools/make_cams.py"
            )
        if "full_size" in x:
            cam = reduced_cam(cam, x["full_size"], (x["height"], x["width"]), self.stride)
        return cam, class_ids
