"""Which proposal holds one object? Selectors that look at the density inside the proposals."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable

from ...errors import UserError
from ...structures import MaskProposals
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY
from .objectness import BestObjectness
from .prm import PRMScore


def density_penalties(cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
    """How far each proposal is from holding one object: d_p = |1 - sum of D_c inside|.

    Source: Cholakkal et al., CVPR 2019. A cell of the density map counts by the part of it that the
    proposal covers (the published code samples the proposal at the cells).

    Returns:
        (P, S) float64, at least 0.

    Raises:
        UserError: the localiser gives no density maps.
    """
    if cues.density_maps is None:
        raise UserError(
            "PSEUDO_LABELS.SELECTOR looks at density maps, which PSEUDO_LABELS.LOCALIZER does not "
            "give: set the localiser to 'DensityPeaks', or choose another selector"
        )
    density = cues.density_maps[cues.class_ids].double().cpu()
    masks = torch.from_numpy(proposals.decode())[:, None].double()
    covered = F.interpolate(masks, size=density.shape[-2:], mode="area")[:, 0]
    return (1 - density.flatten(1) @ covered.flatten(1).T).abs().numpy()


@SELECTOR_REGISTRY.register()
class DensityScore(PRMScore):
    """PRM's proposal score with a density penalty (Cholakkal et al., CVPR 2019).

    A proposal S scores ``balance * sum(R S) + sum(R contour(S)) - penalty * sum(Q S) - density *
    |1 - sum(D S)|`` with the density map D of the object's class, see :class:`PRMScore`; the score
    is divided by ``balance + 1``, its upper bound.

    Args:
        density_factor: weight of the density penalty.
        kwargs: see :class:`PRMScore`.
    """

    @configurable
    def __init__(self, *, density_factor: float = 0.2, **kwargs):
        super().__init__(**kwargs)
        self.density_factor = density_factor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.DENSITY``."""
        density = cfg.PSEUDO_LABELS.DENSITY
        return {
            "balance_factor": density.BALANCE_FACTOR,
            "penalty_factor": density.PENALTY_FACTOR,
            "bg_threshold_factor": density.BG_THRESHOLD_FACTOR,
            "contour_width": density.CONTOUR_WIDTH,
            "density_factor": density.DENSITY_FACTOR,
        }

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        penalties = self.density_factor * density_penalties(cues, proposals)
        return super().match(cues, proposals) - penalties / (self.balance_factor + 1)


@SELECTOR_REGISTRY.register()
class DensityObjectness(BestObjectness):
    """WISE's choice with a density penalty: objectness, less the further a proposal is from one
    object.

    The score of :class:`BestObjectness` is multiplied by ``exp(-factor |1 - sum(D S)|)``, so that
    it stays in [0, 1]. This is ours, neither WISE's nor Cholakkal's.

    Args:
        density_factor: weight of the density penalty.
        kwargs: see :class:`BestObjectness`.
    """

    @configurable
    def __init__(self, *, density_factor: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.density_factor = density_factor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.DENSITY`` too."""
        factor = cfg.PSEUDO_LABELS.DENSITY.OBJECTNESS_DENSITY_FACTOR
        return {**super().from_config(cfg), "density_factor": factor}

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        penalties = self.density_factor * density_penalties(cues, proposals)
        return super().match(cues, proposals) * np.exp(-penalties)
