"""From a dataset dict to the input of a model that is trained on masks, pseudo or true."""

import copy

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from ...structures import mask_box
from ..image_files import read_dataset_image

__all__ = ["InstanceMapper"]


class InstanceMapper(DatasetMapper):
    """Detectron2's mapper of images with masks, with our reader, whose errors name the image.

    Where an object has ``candidates`` instead of one certain mask, one of them is drawn each time
    the image is loaded; see :func:`draw_candidate`.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """See :class:`detectron2.data.DatasetMapper`.

        Raises:
            UserError: the image is absent, unreadable or of another size than the dataset says.
        """
        model_input = copy.deepcopy(dataset_dict)
        annotations = model_input.pop("annotations", None)
        label_file = model_input.pop("sem_seg_file_name", None)
        image = read_dataset_image(model_input, self.image_format)
        label_map = utils.read_image(label_file, "L")[:, :, 0] if label_file else None

        augmentation_input = T.AugInput(image, sem_seg=label_map)
        transforms = self.augmentations(augmentation_input)
        image, label_map = augmentation_input.image, augmentation_input.sem_seg
        model_input["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if label_map is not None:
            model_input["sem_seg"] = torch.as_tensor(label_map.astype(np.int64))
        size = image.shape[:2]
        if self.proposal_topk is not None:
            utils.transform_proposals(
                model_input, size, transforms, proposal_topk=self.proposal_topk
            )
        if self.is_train and annotations is not None:
            model_input["annotations"] = [draw_candidate(a) for a in annotations]
            self._transform_annotations(model_input, transforms, size)
        return model_input


def draw_candidate(annotation: dict) -> dict:
    """One of an object's possible masks, drawn in proportion to its weight.

    In WISE (Laradji et al., BMVC 2019, section 3.2) Mask R-CNN sees another proposal for an object
    at every iteration. The draw takes NumPy's global generator, which Detectron2 seeds in each
    worker.

    Args:
        annotation: of a dataset dict; ``candidates``, where it has them, is a list of
            ``{"segmentation": compressed RLE, "weight": float}``.

    Returns:
        The annotation with the candidate's ``segmentation``, ``bbox`` and ``bbox_mode``; it is not
        changed where it has no candidates.
    """
    candidates = annotation.get("candidates")
    if not candidates:
        return annotation
    weights = np.array([candidate["weight"] for candidate in candidates])
    drawn = np.random.choice(len(candidates), p=weights / weights.sum())  # noqa: NPY002
    segmentation = candidates[drawn]["segmentation"]
    rest = {key: value for key, value in annotation.items() if key != "candidates"}
    return {
        **rest,
        "segmentation": segmentation,
        "bbox": mask_box(segmentation),
        "bbox_mode": BoxMode.XYWH_ABS,
    }
