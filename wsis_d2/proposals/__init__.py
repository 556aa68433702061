"""Class-agnostic mask proposals: readers of other programs' files, one built-in generator, and
promptable segmenters."""

from ..structures import MaskProposals
from .build import PROPOSAL_SOURCE_REGISTRY, ProposalReader, ProposalSource, build_proposal_source
from .cache import ProposalCache, generate_proposals
from .contour_hierarchy import ContourMaps
from .contour_proposals import (
    contour_file,
    contour_proposals,
    photo_proposals,
    read_contours,
    write_contours,
)
from .hed import HED, hed_contours, load_hed
from .hierarchical import hierarchical_proposals
from .prompted import (
    PROMPTABLE_SEGMENTER_REGISTRY,
    MaskPrompts,
    PromptableSegmenter,
    PromptedMasks,
)
from .readers import CocoResultsProposals, MatProposals, SegmentAnythingProposals
from .transformers_sam import TransformersSAM

__all__ = [
    "HED",
    "PROMPTABLE_SEGMENTER_REGISTRY",
    "PROPOSAL_SOURCE_REGISTRY",
    "CocoResultsProposals",
    "ContourMaps",
    "MaskPrompts",
    "MaskProposals",
    "MatProposals",
    "PromptableSegmenter",
    "PromptedMasks",
    "ProposalCache",
    "ProposalReader",
    "ProposalSource",
    "SegmentAnythingProposals",
    "TransformersSAM",
    "build_proposal_source",
    "contour_file",
    "contour_proposals",
    "generate_proposals",
    "hed_contours",
    "hierarchical_proposals",
    "load_hed",
    "photo_proposals",
    "read_contours",
    "write_contours",
]
