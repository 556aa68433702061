"""The stored CAMs of the dataset that is labelled."""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..errors import UserError
from ..files import label_file
from .build import label_dataset_name
from .cam_files import read_cam


class CAMFolder:
    """CAMs by image, as ``tools/make_cams.py`` stores them.

    Args:
        folder: The folder.
        image_root: Folder that the images' names in ``folder`` are relative to.
        stride: Stride of the maps.
    """

    @configurable
    def __init__(self, *, folder: str, image_root: str, stride: int):
        self.folder = folder
        self.image_root = image_root
        self.stride = stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``CAM`` and the dataset to label."""
        return {
            "folder": cfg.CAM.PATH,
            "image_root": MetadataCatalog.get(label_dataset_name(cfg)).get("image_root", ""),
            "stride": cfg.CAM.STRIDE,
        }

    def get(self, x: dict) -> tuple[Tensor, Tensor]:
        """CAMs of an image.

        Args:
            x: Dict with ``file_name`` and ``image_labels``.

        Returns:
            See :func:`wsis_d2.labeling.read_cam`.

        Raises:
            UserError: The file is missing, damaged, or of other labels than the image's.
        """
        path = label_file(self.folder, x["file_name"], self.image_root, ".npz")
        cam, class_ids = read_cam(path)
        if sorted(class_ids.tolist()) != sorted(map(int, x["image_labels"])):
            raise UserError(
                f"the CAMs in {path} are of other classes than the image's labels: the labels or "
                "the dataset have changed, so make the CAMs again with tools/make_cams.py"
            )
        return cam, class_ids
