"""A stand-in promptable segmenter, which looks the answer up in the true masks of Shapes."""

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes
from PIL import Image
from skimage.measure import label as connected_regions

from wsis_d2.data import dataset_dicts
from wsis_d2.images import read_image
from wsis_d2.proposals import PromptableSegmenter


def true_maps(file_name):
    """(H, W) int64 maps of an image of Shapes: the objects 1 .. N, and their classes from 0."""
    devkit, stem = Path(file_name).parents[1], Path(file_name).stem
    objects, classes = (
        np.array(Image.open(devkit / folder / f"{stem}.png")).astype(np.int64)
        for folder in ("SegmentationObject", "SegmentationClass")
    )
    return objects, classes - 1


class TrueRegions(PromptableSegmenter):
    """Gives the connected region of equal true label that everything in a prompt points at.

    It knows an image by its pixels, and says nothing where box, mask and points disagree.
    """

    def __init__(self, cfg):
        super().__init__()
        files = [x["file_name"] for x in dataset_dicts("shapes_train")]
        self.objects = {read_image(f).tobytes(): true_maps(f)[0] for f in files}

    def embed(self, image):
        return self.objects[np.ascontiguousarray(image.permute(1, 2, 0).numpy()).tobytes()]

    def predict(self, embedding, prompts):
        pieces = connected_regions(embedding, connectivity=1)
        masks = [self._region(embedding, pieces, prompts, i) for i in range(len(prompts))]
        return torch.from_numpy(np.stack(masks))[:, None], torch.ones(len(prompts), 1)

    @staticmethod
    def _region(objects, pieces, prompts, index):
        regions = [pieces == i for i in range(1, pieces.max() + 1)]
        wholes = [objects == i for i in range(1, objects.max() + 1)]
        for point, label in zip(prompts.points[index].round().long(), prompts.labels[index]):
            regions = [r for r in regions if r[tuple(point)] == (label == 1)]
            wholes = [w for w in wholes if w[tuple(point)] == (label == 1)]
        if prompts.boxes is not None:
            wholes = [w for w in wholes if _box_iou(w, prompts.boxes[index]) > 0.99]
        if prompts.masks is not None:
            mask = prompts.masks[index].numpy() >= 0.5
            wholes = [w for w in wholes if (w & mask).sum() / (w | mask).sum() > 0.99]
        if not wholes:
            return np.zeros(objects.shape, bool)
        return regions[0] if len(prompts.points[index]) else wholes[0]


def _box_iou(mask, box):
    truth = BitMasks(torch.from_numpy(mask)[None]).get_bounding_boxes()
    start = torch.maximum(truth.tensor[0, :2], box[:2])
    end = torch.minimum(truth.tensor[0, 2:], box[2:])
    common = (end - start).clamp(min=0).prod()
    return common / (truth.area()[0] + Boxes(box[None]).area()[0] - common)
