"""What all formats have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter

from .labels import LabelImage, LabelMask, LabelSet

#: Where Label Studio serves the images of an export, which is its
#: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT: only files in a folder below that, which is a storage.
LOCAL_FILES = "/data/local-files/?d=images/"


class ExportFormat(ABC):
    """A format of other tools.

    Args:
        image_url: what precedes file names, in formats that know images by their addresses.

    Attributes:
        losses: numbers of masks by what the format cannot say of them, for people.
        left_out: numbers of what else is left out, by what it is.
    """

    def __init__(self, image_url: str = LOCAL_FILES):
        self.image_url = image_url
        self.losses: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    @abstractmethod
    def image_path(self, image: LabelImage) -> str:
        """Where the image lies in the export, relative to its folder."""

    @abstractmethod
    def write(self, labels: LabelSet, folder: str) -> None:
        """Write everything but the images.

        Args:
            labels: what.
            folder: an empty one.

        Raises:
            UserError: the format has no room for it.
        """

    def objects(self, image: LabelImage) -> list[LabelMask]:
        """The image's masks for a format that has no regions to ignore; these are counted."""
        crowds = len(image.masks) - len(image.objects)
        if crowds:
            self.left_out["regions to ignore, which the format does not know"] += crowds
        return image.objects
