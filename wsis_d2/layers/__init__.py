"""Tensor functions of the methods: no config, no files, no Detectron2."""

from .affinity import PairAffinity, boundary_affinity, feature_affinity
from .centroids import cluster_centroids, find_centroids
from .dense_crf import CRFSettings, dense_crf_from_labels, dense_crf_from_scores
from .density_losses import count_losses, highest_peaks, spatial_losses
from .dilated_depthwise import DilatedDepthwiseConv2d, convert_dilated_depthwise
from .fixed_batch_norm import FixedBatchNorm2d, convert_to_fixed_batchnorm
from .fold_batch_norm import fold_batch_norm
from .gradients import scale_gradient
from .peak_backprop import peak_response_maps
from .peak_stimulation import find_peaks, peak_stimulation
from .pixel_correlation import correlate_pixels
from .random_walk import random_walk
from .regions import fraction_inside
from .relation_losses import UNKNOWN, affinitynet_losses, irnet_losses
from .smooth_l1 import SelfAdjustingSmoothL1

__all__ = [
    "UNKNOWN",
    "CRFSettings",
    "DilatedDepthwiseConv2d",
    "FixedBatchNorm2d",
    "PairAffinity",
    "SelfAdjustingSmoothL1",
    "affinitynet_losses",
    "boundary_affinity",
    "cluster_centroids",
    "convert_dilated_depthwise",
    "convert_to_fixed_batchnorm",
    "correlate_pixels",
    "count_losses",
    "dense_crf_from_labels",
    "dense_crf_from_scores",
    "feature_affinity",
    "find_centroids",
    "find_peaks",
    "fold_batch_norm",
    "fraction_inside",
    "highest_peaks",
    "irnet_losses",
    "peak_response_maps",
    "peak_stimulation",
    "random_walk",
    "scale_gradient",
    "spatial_losses",
]
