"""Class-agnostic mask proposals: readers of other programs' files and one built-in generator."""

from ..structures import MaskProposals
from .build import PROPOSAL_SOURCE_REGISTRY, ProposalReader, ProposalSource, build_proposal_source
from .cache import ProposalCache, generate_proposals
from .contour_hierarchy import ContourMaps
from .contour_proposals import contour_proposals, photo_proposals
from .hed import HED, hed_contours, load_hed
from .hierarchical import hierarchical_proposals
from .readers import CocoResultsProposals, MatProposals, SegmentAnythingProposals

__all__ = [
    "HED",
    "PROPOSAL_SOURCE_REGISTRY",
    "CocoResultsProposals",
    "ContourMaps",
    "MaskProposals",
    "MatProposals",
    "ProposalCache",
    "ProposalReader",
    "ProposalSource",
    "SegmentAnythingProposals",
    "build_proposal_source",
    "contour_proposals",
    "generate_proposals",
    "hed_contours",
    "hierarchical_proposals",
    "load_hed",
    "photo_proposals",
]
