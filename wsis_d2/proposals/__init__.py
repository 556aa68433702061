"""Class-agnostic mask proposals: readers of other programs' files and one built-in generator."""

from .build import PROPOSAL_SOURCE_REGISTRY, ProposalReader, ProposalSource, build_proposal_source
from .cache import ProposalCache, generate_proposals
from .hierarchical import hierarchical_proposals
from .readers import CocoResultsProposals, MatProposals, SegmentAnythingProposals
from .structures import MaskProposals

__all__ = [
    "PROPOSAL_SOURCE_REGISTRY",
    "CocoResultsProposals",
    "MaskProposals",
    "MatProposals",
    "ProposalCache",
    "ProposalReader",
    "ProposalSource",
    "SegmentAnythingProposals",
    "build_proposal_source",
    "generate_proposals",
    "hierarchical_proposals",
]
