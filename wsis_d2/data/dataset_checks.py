"""What to know of image-level data before hours of training: its files, its labels, its splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from ..errors import UserError
from ..images import read_image
from ..parallel import available_cpus, map_images
from .catalog import dataset_classes, dataset_dicts
from .image_labels import make_image_level

__all__ = ["DatasetReport", "Finding", "check_registered_datasets"]

#: A class of fewer training images is hardly learnt, whatever the network knows already.
MIN_IMAGES_OF_CLASS = 20
#: A class that shares more than this part of its images with one other cannot be told from it.
MAX_SHARE_WITH_OTHER = 0.9
#: A class on more than this part of all images has no images that lack it, to learn from.
MAX_SHARE_OF_IMAGES = 0.9
#: In pixels: the shorter side below which a feature map of stride 16 has no more than 6 cells.
MIN_SIDE = 96
#: In pixels: about what a network at full size takes a gigabyte of memory for.
MAX_PIXELS = 24_000_000
MAX_ASPECT_RATIO = 4.0
#: Of the 64 bits of :func:`difference_hash`, so many may differ between two copies of one picture.
MAX_DIFFERING_BITS = 3
#: A hash is found by one of so many parts, of which at least one must agree entirely.
_PARTS = MAX_DIFFERING_BITS + 1


@dataclass(frozen=True)
class ImageFacts:
    """What :func:`examine_image` found in one image file.

    Attributes:
        file_name: of the image.
        error: why it cannot be read, "" where it can; then the rest is empty.
        height, width: in pixels, upright.
        digest: of the file's bytes.
        look: see :func:`difference_hash`.
    """

    file_name: str
    error: str = ""
    height: int = 0
    width: int = 0
    digest: str = ""
    look: int = 0


@dataclass(frozen=True)
class Finding:
    """Something that harms training, or is likely to.

    Attributes:
        what: what was found, in the plural.
        examples: all the files, classes or pairs of which it is true.
        advice: what to do.
        is_error: whether training stops at it or cannot learn a class; else it is advice.
    """

    what: str
    examples: tuple[str, ...]
    advice: str
    is_error: bool = False

    def __str__(self) -> str:
        kind = "error" if self.is_error else "advice"
        shown = ", ".join(self.examples[:5]) + (", ..." if len(self.examples) > 5 else "")
        return f"{kind}: {self.what} ({len(self.examples)}): {shown}\n    {self.advice}"


@dataclass(frozen=True)
class DatasetReport:
    """The result of :func:`check_datasets`.

    Attributes:
        class_names: in the order of their contiguous ids.
        train_images, alone, val_images: per class, its images in training, those among them that
            have no other class, and those in validation.
        companions: per class, the class that is most often beside it in training, and in which
            part of its images; ("", 0.0) where none ever is.
        findings: errors first.
    """

    class_names: tuple[str, ...]
    train_images: tuple[int, ...]
    alone: tuple[int, ...]
    val_images: tuple[int, ...]
    companions: tuple[tuple[str, float], ...]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether training would stop, or leave a class out."""
        return any(finding.is_error for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        """A table of the classes, then the findings with a few of their examples."""
        rows = [
            (name, train, alone, val, f"{other} {100 * share:.0f} %" if other else "")
            for name, train, alone, val, (other, share) in zip(
                self.class_names,
                self.train_images,
                self.alone,
                self.val_images,
                self.companions,
                strict=True,
            )
        ]
        headers = ("class", "images", "of them alone", "validation", "most often with")
        findings = [str(f) for f in self.findings] or ["nothing found that would harm training"]
        return "\n".join([tabulate(rows, headers), "", *findings])


def check_registered_datasets(train: Sequence[str], val: Sequence[str] = ()) -> DatasetReport:
    """Decode all images of registered datasets, and look at their labels.

    Args:
        train: names of the datasets to train on, of the same classes.
        val: names of the datasets to evaluate on.

    Raises:
        UserError: a dataset is not registered, its files are missing or malformed.
    """
    train_dicts = [d for name in train for d in dataset_dicts(name)]
    val_dicts = [d for name in val for d in dataset_dicts(name)]
    files = [d["file_name"] for d in (*train_dicts, *val_dicts)]
    facts = map_images(examine_image, files, "images looked at", available_cpus())
    classes = dataset_classes(train[0]) if train else []
    return check_datasets(
        train_dicts, facts[: len(train_dicts)], val_dicts, facts[len(train_dicts) :], classes
    )


def difference_hash(image: np.ndarray) -> int:
    """64 bits of how a picture looks, nearly the same after scaling and recompression.

    Bit (i, j): whether the gray picture, shrunk to 8 x 9 pixels, grows darker from column j to
    j + 1 of row i.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    small = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA
    )
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes(), "big")


def examine_image(file_name: str) -> ImageFacts:
    """Decode an image, as training would."""
    try:
        image = read_image(file_name)
        with PathManager.open(file_name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        return ImageFacts(file_name, str(error))
    return ImageFacts(file_name, "", *image.shape[:2], digest, difference_hash(image))


def check_datasets(
    train: Iterable[dict],
    train_facts: Sequence[ImageFacts],
    val: Iterable[dict],
    val_facts: Sequence[ImageFacts],
    class_names: Sequence[str],
) -> DatasetReport:
    """Find what would harm the training of a classifier and the masks that follow from it.

    Args:
        train: dataset dicts of any kind, see :func:`wsis_d2.data.make_image_level`.
        train_facts: of their images.
        val: of the images to evaluate on; may be empty.
        val_facts: of their images.
        class_names: in the order of the contiguous ids.
    """
    train_labels, val_labels = _label_sets(train), _label_sets(val)
    train_counts, val_counts = _count_images(train_labels), _count_images(val_labels)
    alone = _count_images(labels for labels in train_labels if len(labels) == 1)
    companions = _companions(train_labels, train_counts)
    classes = range(len(class_names))
    found = [
        *_check_files([*train_facts, *val_facts]),
        *_check_copies(train_facts, val_facts),
        *_check_labels(train_labels, train_counts, alone, companions, class_names),
        *_check_splits(train_counts, val_counts, class_names),
    ]
    findings = sorted((f for f in found if f.examples), key=lambda finding: not finding.is_error)
    return DatasetReport(
        tuple(class_names),
        tuple(train_counts[c] for c in classes),
        tuple(alone[c] for c in classes),
        tuple(val_counts[c] for c in classes),
        tuple(
            (class_names[companions[c][0]], companions[c][1]) if c in companions else ("", 0.0)
            for c in classes
        ),
        tuple(findings),
    )


def _label_sets(dicts: Iterable[dict]) -> list[frozenset[int]]:
    return [frozenset(d.get("image_labels", ())) for d in make_image_level(dicts)]


def _count_images(label_sets: Iterable[frozenset[int]]) -> Counter[int]:
    return Counter(label for labels in label_sets for label in labels)


def _companions(
    label_sets: Sequence[frozenset[int]], counts: Counter[int]
) -> dict[int, tuple[int, float]]:
    """Class -> the class most often beside it, and in which part of its images that is."""
    together: dict[int, Counter[int]] = defaultdict(Counter)
    for labels in label_sets:
        for one, other in combinations(sorted(labels), 2):
            together[one][other] += 1
            together[other][one] += 1
    best = {c: others.most_common(1)[0] for c, others in together.items()}
    return {c: (other, count / counts[c]) for c, (other, count) in best.items()}


def _check_files(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    readable = [f for f in facts if not f.error]
    yield Finding(
        "images that cannot be read",
        tuple(f.error for f in facts if f.error),
        "replace the files or remove them from the list",
        is_error=True,
    )
    yield Finding(
        f"images with a side below {MIN_SIDE} pixels",
        _names(f for f in readable if min(f.height, f.width) < MIN_SIDE),
        "their masks will be coarse; larger versions would give better ones",
    )
    yield Finding(
        f"images of more than {MAX_PIXELS // 10**6} megapixels",
        _names(f for f in readable if f.height * f.width > MAX_PIXELS),
        "shrink them if masks in so many pixels are not needed: every stage takes long",
    )
    yield Finding(
        f"images more than {MAX_ASPECT_RATIO:g} times as long as wide",
        _names(
            f
            for f in readable
            if max(f.height, f.width) > MAX_ASPECT_RATIO * min(f.height, f.width)
        ),
        "cut them into pieces: a training crop sees little of them",
    )


def _check_copies(train: Sequence[ImageFacts], val: Sequence[ImageFacts]) -> Iterator[Finding]:
    in_val = {id(fact) for fact in val}  # the same file may be in both
    same, similar = _find_copies([f for f in (*train, *val) if not f.error])
    for what, pairs in (("the same file", same), ("nearly the same picture", similar)):
        is_leak = [(id(a) in in_val) != (id(b) in in_val) for a, b in pairs]
        names = [f"{a.file_name} = {b.file_name}" for a, b in pairs]
        yield Finding(
            f"images of training and validation that are {what}",
            tuple(name for name, leak in zip(names, is_leak, strict=True) if leak),
            "take them out of one split: with them, metrics are too good",
        )
        yield Finding(
            f"pairs of images that are {what}",
            tuple(name for name, leak in zip(names, is_leak, strict=True) if not leak),
            "keep one of each, unless their labels should count twice",
        )


def _find_copies(
    facts: Sequence[ImageFacts],
) -> tuple[list[tuple[ImageFacts, ImageFacts]], list[tuple[ImageFacts, ImageFacts]]]:
    """Pairs of the same bytes (each copy with the first), and of nearly the same looks.

    With one part of the hash more than bits may differ, one part at least is equal, so that only
    images that share a part are compared.
    """
    first: dict[str, ImageFacts] = {}
    same = []
    for fact in facts:
        original = first.setdefault(fact.digest, fact)
        if original is not fact:
            same.append((original, fact))
    by_part: dict[tuple[int, int], list[ImageFacts]] = defaultdict(list)
    bits = 64 // _PARTS
    for fact in first.values():
        if fact.look:  # none: a picture without any detail, which is like every other such
            for part in range(_PARTS):
                by_part[part, fact.look >> (part * bits) & (1 << bits) - 1].append(fact)
    similar = {
        (one.digest, other.digest): (one, other)
        for alike in by_part.values()
        for one, other in combinations(alike, 2)
        if (one.look ^ other.look).bit_count() <= MAX_DIFFERING_BITS
    }
    return same, list(similar.values())


def _check_labels(
    label_sets: Sequence[frozenset[int]],
    counts: Counter[int],
    alone: Counter[int],
    companions: dict[int, tuple[int, float]],
    class_names: Sequence[str],
) -> Iterator[Finding]:
    names = dict(enumerate(class_names))
    yield Finding(
        "classes without any training image",
        tuple(name for c, name in names.items() if not counts[c]),
        "label images with them or take them out of the classes",
        is_error=True,
    )
    yield Finding(
        f"classes of fewer than {MIN_IMAGES_OF_CLASS} images",
        tuple(f"{n} {counts[c]}" for c, n in names.items() if 0 < counts[c] < MIN_IMAGES_OF_CLASS),
        "add images, or expect poor masks of them",
    )
    stuck = {
        c: companions[c][0]
        for c in names
        if c in companions and companions[c][1] > MAX_SHARE_WITH_OTHER
    }
    yield Finding(
        "classes nearly always beside the same other one",
        tuple(f"{names[c]} with {names[other]}" for c, other in stuck.items()),
        "add images of each without the other: a class activation map cannot tell them apart",
    )
    yield Finding(
        "classes on no image alone",
        tuple(name for c, name in names.items() if counts[c] and not alone[c] and c not in stuck),
        "add images that show nothing else of the classes, to tell it from what is around",
    )
    yield Finding(
        "classes on nearly every image",
        tuple(n for c, n in names.items() if counts[c] > MAX_SHARE_OF_IMAGES * len(label_sets) > 0),
        "add images of other classes: a classifier learns a class from the images that lack it",
        is_error=len(names) == 1,
    )


def _check_splits(
    train: Counter[int], val: Counter[int], class_names: Sequence[str]
) -> Iterator[Finding]:
    if not val:
        return
    for what, counts, others in (
        ("training but not in validation", train, val),
        ("validation but not in training", val, train),
    ):
        yield Finding(
            f"classes in {what}",
            tuple(name for c, name in enumerate(class_names) if counts[c] and not others[c]),
            "move images between the splits: metrics leave such a class out or count it as missed",
        )


def _names(facts: Iterable[ImageFacts]) -> tuple[str, ...]:
    return tuple(f.file_name for f in facts)
