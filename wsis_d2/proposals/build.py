"""From the config to a source of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry

from ..errors import UserError, look_up
from ..parallel import available_cpus
from ..structures import MaskProposals
from .cache import ProposalCache, generate_proposals
from .prompted import MaskPrompts, PromptedMasks, build_prompted_masks
from .readers import CocoResultsProposals, MatProposals, SegmentAnythingProposals

PROPOSAL_SOURCE_REGISTRY = Registry("PROPOSAL_SOURCE")
PROPOSAL_SOURCE_REGISTRY.__doc__ = """
Sources of mask proposals by their name in ``cfg.PROPOSALS.SOURCE``: callables that take the config
and return a :class:`ProposalReader` or a :class:`PromptedMasks`.
"""


class ProposalReader(Protocol):
    """What a registered source makes."""

    def read(self, file_name: str, image_id: Any, size: tuple[int, int]) -> MaskProposals:
        """The proposals of an image of size (height, width), on that size; UserError if none."""


class ProposalSource:
    """Proposals of dataset dicts, from any reader, limited in area and number.

    Args:
        reader: where they come from: a :class:`ProposalReader`, or a :class:`PromptedMasks`, which
            has none before objects are located.
        min_area, max_area: as fractions of the image's area.
        max_per_image: the best in objectness are kept.
    """

    def __init__(
        self,
        reader: ProposalReader | PromptedMasks,
        min_area: float = 0.0,
        max_area: float = 1.0,
        max_per_image: int | None = None,
    ) -> None:
        self.reader = reader
        self._limits = (min_area, max_area, max_per_image)

    @property
    def prompted(self) -> bool:
        """Whether :meth:`get` needs prompts."""
        return isinstance(self.reader, PromptedMasks)

    def get(
        self, dataset_dict: Mapping[str, Any], prompts: Sequence[MaskPrompts] | None = None
    ) -> MaskProposals:
        """The proposals of a dict with `file_name`, `image_id`, `height` and `width`.

        Where the image was reduced, the dict has its `full_size` (height, width) too, which is that
        of the files.

        Args:
            dataset_dict: the image; also with `image` (C, h, w), at any size, if :attr:`prompted`.
            prompts: at least one set of prompts of that `height` and `width`, if :attr:`prompted`;
                else nothing reads them.

        Raises:
            UserError: there are no proposals for the image, or they cannot be read.
        """
        size = (int(dataset_dict["height"]), int(dataset_dict["width"]))
        if isinstance(self.reader, PromptedMasks):
            if prompts is None:
                raise UserError(
                    "PROPOSALS.SOURCE 'prompted' has masks of located objects alone: use it with "
                    "the label generator WISE or to refine masks, or choose another source"
                )
            proposals = self.reader.segment(dataset_dict["image"], prompts)
            return proposals.filter(*self._limits)
        file_size = dataset_dict.get("full_size", size)
        if isinstance(self.reader, BuiltinProposals):  # made at a size of its own
            file_size = size
        file_name, image_id = dataset_dict["file_name"], dataset_dict["image_id"]
        proposals = self.reader.read(file_name, image_id, file_size)
        return proposals.filter(*self._limits).resize(size)

    def prepare(
        self, dataset_dicts: Sequence[Mapping[str, Any]], num_workers: int | None = None
    ) -> None:
        """Make ahead, in parallel, what :meth:`get` would make one by one; files need nothing.

        Args:
            num_workers: processes; None: as many as there are CPUs for this one.

        Raises:
            UserError: as :meth:`get`, once, after all other images are done.
        """
        prepare = getattr(self.reader, "prepare", None)
        if prepare is not None:
            file_names = list(dict.fromkeys(record["file_name"] for record in dataset_dicts))
            prepare(file_names, available_cpus() if num_workers is None else num_workers)


class BuiltinProposals:
    """The built-in generator behind its cache; see :class:`ProposalCache`."""

    def __init__(self, cache: ProposalCache) -> None:
        self.cache = cache

    def read(self, file_name: str, image_id: Any, size: tuple[int, int]) -> MaskProposals:
        return self.cache.get(file_name).resize(size)

    def prepare(self, file_names: Sequence[str], num_workers: int) -> None:
        generate_proposals(file_names, self.cache.folder, num_workers, **self.cache.settings)


@PROPOSAL_SOURCE_REGISTRY.register()
def builtin(cfg: CfgNode) -> BuiltinProposals:
    """PROPOSALS.BUILTIN's generator, cached in the folder PROPOSALS.PATH."""
    # The areas and the number are limited when the cache is read, so it outlives their change.
    return BuiltinProposals(ProposalCache(cfg.PROPOSALS.PATH, _builtin_settings(cfg)))


# Keys of PROPOSALS.BUILTIN that each kind of contours has a use for.
_BUILTIN_KEYS = {
    "none": ("SCALES", "SIGMA", "MIN_SIZE", "COLOR_SPACES"),
    "hed": ("HED_WEIGHTS", "DIVERSITY"),
    "files": ("CONTOUR_PATH", "DIVERSITY"),
}
_BUILTIN_COMMON_KEYS = ("LONGEST_EDGE", "NMS_THRESHOLD", "MAX_PROPOSALS")


def _builtin_settings(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.PROPOSALS.BUILTIN
    contours = options.CONTOURS
    if contours not in _BUILTIN_KEYS:
        raise UserError(
            f"PROPOSALS.BUILTIN.CONTOURS is {contours!r}: choose one of {', '.join(_BUILTIN_KEYS)}"
        )
    keys = (*_BUILTIN_KEYS[contours], *_BUILTIN_COMMON_KEYS)
    settings = {key.lower(): options[key] for key in keys}
    # Caches made before there were contours hold no word of them.
    return settings if contours == "none" else {"contours": contours, **settings}


@PROPOSAL_SOURCE_REGISTRY.register()
def mat(cfg: CfgNode) -> MatProposals:
    """A folder of MCG or COB files."""
    return MatProposals(cfg.PROPOSALS.PATH)


@PROPOSAL_SOURCE_REGISTRY.register()
def coco_json(cfg: CfgNode) -> CocoResultsProposals:
    """A COCO-results file."""
    return CocoResultsProposals(cfg.PROPOSALS.PATH)


@PROPOSAL_SOURCE_REGISTRY.register()
def sam(cfg: CfgNode) -> SegmentAnythingProposals:
    """A folder that segment-anything's automatic mask generator wrote."""
    return SegmentAnythingProposals(cfg.PROPOSALS.PATH)


@PROPOSAL_SOURCE_REGISTRY.register()
def prompted(cfg: CfgNode) -> PromptedMasks:
    """A promptable segmenter's masks of located objects, see PROPOSALS.PROMPTED."""
    return build_prompted_masks(cfg)


def build_proposal_source(cfg: CfgNode) -> ProposalSource:
    """The source that ``cfg.PROPOSALS`` describes.

    Raises:
        UserError: unknown name, or PROPOSALS.PATH is not what the source needs.
    """
    reader = look_up(PROPOSAL_SOURCE_REGISTRY, cfg.PROPOSALS.SOURCE, "PROPOSALS.SOURCE")
    return ProposalSource(
        reader(cfg),
        cfg.PROPOSALS.MIN_AREA,
        cfg.PROPOSALS.MAX_AREA,
        cfg.PROPOSALS.MAX_PER_IMAGE,
    )
