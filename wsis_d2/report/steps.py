"""The steps of each method as columns of the report's gallery.

A label generator has its steps in :data:`METHODS`; the second stage, which learns from the labels,
has its own in :data:`SECOND_STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from . import panels
from .page import ReportColumn, ReportPanel
from .panels import Example


@dataclass(frozen=True)
class Step:
    """A column of the gallery and how its panels are drawn."""

    title: str
    legend: str
    draw: Callable[[Example], ReportPanel]

    @property
    def column(self) -> ReportColumn:
        """The column's heading."""
        return ReportColumn(self.title, self.legend)


@dataclass(frozen=True)
class Method:
    """How a label generator works, in a sentence, and its steps.

    Attributes:
        summary: the sentence; that of the second stage is added to it.
        network: name of the network whose weights are in ``MODEL.WEIGHTS``.
        steps: from the picture to the labels.
    """

    summary: str
    network: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class SecondStage:
    """A network that learns from the labels.

    Attributes:
        summary: the end of the method's sentence.
        prediction: the step that shows its prediction.
        truth: the step that shows the truth.
        load_truth: from a dataset's name to a function from a dataset dict to its truth.
    """

    summary: str
    prediction: Step
    truth: Step
    load_truth: Callable[[str], Callable[[Mapping[str, Any]], Any]]


PICTURE = Step(
    "Picture", "The image and the labels that training was given: nothing else.", panels.picture
)
CAM = Step(
    "CAM",
    "Class activation maps over several scales: the highest of the labelled classes.",
    panels.cam,
)

PSEUDO_MASKS = Step(
    "Pseudo masks",
    "The mask proposal chosen for each object (WISE, section 3.2; PRM, 3.3).",
    panels.pseudo_masks,
)

#: Of any method.
PSEUDO_MASKS_OF_FILE = Step(
    "Pseudo masks", "As exported: what the second stage learned from.", panels.pseudo_masks
)


def _with_proposals(what: str, network: str, *steps: Step) -> Method:
    """WISE and PRM with one localiser: ``what`` says of a sentence how it finds objects."""
    return Method(
        f"From image-level class labels to instance masks: {what} choose class-agnostic mask "
        "proposals",
        network,
        (PICTURE, *steps, PSEUDO_MASKS),
    )


CLASS_RESPONSE = Step(
    "Class response map",
    "Strongest response of the labelled classes, before any peak is sought (PRM, section 3).",
    panels.class_response,
)
PEAKS = Step(
    "Peaks",
    "Local maxima of the response maps, at the maximum of their peak response map.",
    panels.peaks,
)
PEAK_RESPONSES = Step(
    "Peak responses",
    "Pixels that caused each peak, found by peak backpropagation (PRM, section 3.2).",
    panels.peak_responses,
)

TEXT_BOXES = Step(
    "Boxes",
    "What an open-vocabulary detector finds of the image's own labels and, where it was asked for "
    "the other classes too, of these.",
    panels.located_boxes,
)

#: By name of the localiser.
LOCALIZERS = {
    "PRMPeaks": _with_proposals(
        "a classifier is trained on the labels, its peaks",
        "Classifier",
        CLASS_RESPONSE,
        PEAKS,
        PEAK_RESPONSES,
    ),
    "DensityPeaks": _with_proposals(
        "a network learns from lower counts to classify and to count, its peaks and its density",
        "Network",
        CLASS_RESPONSE,
        Step(
            "Density",
            "Objects per cell of the labelled classes, whose sum is their number (Cholakkal et "
            "al., CVPR 2019).",
            panels.density,
        ),
        PEAKS,
        PEAK_RESPONSES,
    ),
    "CAMMaxima": _with_proposals(
        "a classifier is trained on the labels, the local maxima of its activation maps (CAMs)",
        "Classifier",
        Step(
            "CAM",
            "Class activation maps over several scales: the highest of the labelled classes.",
            panels.class_response,
        ),
        Step("Maxima", "Local maxima of the CAMs.", panels.points),
        Step("Basins", "The CAM in the watershed of each maximum.", panels.peak_responses),
    ),
    "IRNetCentroids": _with_proposals(
        "IRNet learns from confident seeds which pixels belong together, the instances that its "
        "displacement field tells apart",
        "IRNet",
        Step(
            "CAM",
            "Class activation maps over several scales: the highest of the labelled classes.",
            panels.class_response,
        ),
        Step(
            "Centroids",
            "Where the displacements of each instance lead (IRNet, section 5), or its strongest "
            "cell where there is no evidence.",
            panels.points,
        ),
        Step(
            "Random walk",
            "The instance CAMs after their random walk (IRNet, section 5).",
            panels.peak_responses,
        ),
    ),
    "TextBoxes": _with_proposals(
        "an open-vocabulary detector is asked for the labels of each image, its boxes",
        "Detector",
        TEXT_BOXES,
    ),
}
#: Of localisers that others have registered.
_OTHER_LOCALIZER = _with_proposals(
    "a localiser finds objects of the labelled classes, which",
    "Network",
    Step(
        "Class response map",
        "Evidence for the labelled classes: the strongest of them.",
        panels.class_response,
    ),
    Step("Objects", "Points that the localiser gives.", panels.points),
    Step("Responses", "Where the evidence for each object lies.", panels.peak_responses),
)

_IRNET = Method(
    "From image-level class labels to instance masks: a classifier's activation maps (CAMs) give "
    "confident seeds, IRNet learns from them which pixels belong together, its displacement field "
    "splits the CAMs into instances and its class boundaries guide their random walk",
    "IRNet",
    (
        PICTURE,
        CAM,
        Step(
            "Seeds",
            "Where the CAM is confident after a dense CRF, as a class or as background; hatched: "
            "unknown. IRNet is trained on nothing else (IRNet, section 4).",
            panels.seeds,
        ),
        Step(
            "Class boundaries",
            "Probability of a boundary between classes: pairs of seeds that differ must be "
            "separated by one (IRNet, section 4).",
            panels.boundary,
        ),
        Step(
            "Displacements",
            "From each cell to the centroid of its object. The wheel shows which color points "
            "where: a color at its right means to the right; white: no displacement "
            "(IRNet, section 4).",
            panels.displacement,
        ),
        Step(
            "Clusters",
            "Cells whose paths along the displacements end in one region, and, as dots, where "
            "they end (IRNet, section 5). An object keeps this color in the next columns.",
            panels.clusters,
        ),
        Step(
            "Instance CAMs",
            "The CAMs, cut by the clusters (IRNet, section 5).",
            panels.instance_cams,
        ),
        Step(
            "Random walk",
            "The instance CAMs after their random walk, which the class boundaries stop; "
            "outlined: above the background's score (IRNet, section 5).",
            panels.instance_walk,
        ),
        Step(
            "Pseudo masks",
            "Connected pieces of the walk's result (IRNet, section 5).",
            panels.irnet_masks,
        ),
        Step(
            "Semantic labels",
            "The same walk by classes instead of instances.",
            panels.semantic_labels,
        ),
    ),
)

_AFFINITYNET = Method(
    "From image-level class labels to semantic labels: a classifier's activation maps (CAMs) give "
    "seeds, AffinityNet learns from them which neighboring pixels are of one class, and the CAMs "
    "walk at random along these affinities",
    "AffinityNet",
    (
        PICTURE,
        CAM,
        Step(
            "Seeds",
            "Confident where the CAM with an amplified and with a weakened background agree after "
            "a dense CRF; hatched: unknown (AffinityNet, section 3).",
            panels.seeds,
        ),
        Step(
            "Affinity features",
            "Their three principal components as red, green and blue: cells of like color attract "
            "each other (AffinityNet, section 3).",
            panels.affinity_features,
        ),
        Step(
            "Semantic boundaries",
            "1 minus the mean affinity to the eight neighbors.",
            panels.semantic_boundary,
        ),
        Step(
            "Random walk",
            "Share of each class after the walk, in the color of the class; dark: background "
            "(AffinityNet, section 3).",
            panels.semantic_walk,
        ),
        Step(
            "Labels after the walk",
            "The class or background of the highest score.",
            panels.labels_before_crf,
        ),
        Step(
            "Semantic labels",
            "The same after a dense CRF: what is trained on.",
            panels.semantic_labels,
        ),
    ),
)

#: By name of the label generator.
METHODS = {
    "IRNetLabels": _IRNET,
    "AffinityNetLabels": _AFFINITYNET,
    "BoxLabels": Method(
        "From image-level class labels to boxes: an open-vocabulary detector is asked for the "
        "labels of each image",
        "Detector",
        (PICTURE, TEXT_BOXES),
    ),
}
#: Of generators that others have registered.
OTHER_METHOD = Method(
    "From image-level class labels to instance masks: a label generator turns what a network "
    "learned from the labels into masks",
    "Network",
    (PICTURE, Step("Pseudo masks", "What the label generator gives.", panels.pseudo_masks)),
)


def method_of(cfg: CfgNode) -> Method:
    """How the label generator of a config works."""
    labels = cfg.PSEUDO_LABELS
    if labels.GENERATOR in ("WISE", "PRM"):
        return LOCALIZERS.get(labels.LOCALIZER, _OTHER_LOCALIZER)
    return METHODS.get(labels.GENERATOR, OTHER_METHOD)


def generator_name(cfg: CfgNode) -> str:
    """The label generator and, where it has them, its exchangeable parts."""
    labels = cfg.PSEUDO_LABELS
    parts = {
        "WISE": (labels.LOCALIZER, labels.SELECTOR),
        "PRM": (labels.LOCALIZER, "PRMScore"),
        "BoxLabels": (labels.LOCALIZER,),
    }
    return " · ".join((labels.GENERATOR, *parts.get(labels.GENERATOR, ())))


_TRUE_MASKS = Step("Ground truth", "For comparison; no stage was trained on it.", panels.true_masks)

#: By ``DATASETS.SUPERVISION`` of the second stage.
SECOND_STAGES = {
    "masks": SecondStage(
        ", and Mask R-CNN is trained on the resulting masks.",
        Step("Mask R-CNN", "Trained on the pseudo masks of all images.", panels.detections),
        _TRUE_MASKS,
        panels.load_true_masks,
    ),
    "sem_seg": SecondStage(
        ", and a semantic segmentation network is trained on the resulting labels.",
        Step(
            "Segmentation network",
            "Trained on the semantic labels of all images.",
            panels.semantic_prediction,
        ),
        Step("Ground truth", "For comparison; no stage was trained on it.", panels.true_label_map),
        panels.load_true_label_maps,
    ),
}

_FASTER_RCNN = SecondStage(
    ", and Faster R-CNN is trained on these.",
    Step("Faster R-CNN", "Trained on the boxes of all images.", panels.detections),
    _TRUE_MASKS,
    panels.load_true_masks,
)


def second_stage_of(cfg: CfgNode) -> SecondStage | None:
    """What learns from the labels by a config; None where it learns from something else."""
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and not cfg.MODEL.MASK_ON:
        return _FASTER_RCNN
    return SECOND_STAGES.get(cfg.DATASETS.SUPERVISION)
