"""The part of the report where a person decides about pseudo masks.

Its script (review.js) needs nothing but the page: decisions are kept in the browser's localStorage
and leave as a download, which :func:`wsis_d2.data.read_review` reads.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from ..data import Review
from ..files import to_json
from .pictures import data_uri

#: Of the pictures: they are small, and there are many.
JPEG_QUALITY = 75

SCRIPT = resources.files(__package__).joinpath("review.js").read_text(encoding="utf-8")


def script_source() -> str:
    """The script as a source in a Content-Security-Policy, which forbids any other."""
    digest = hashlib.sha256(SCRIPT.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@dataclass(frozen=True)
class ReviewImage:
    """A picture of masks to be reviewed: (H, W, 3) uint8 RGB, small, and its labels' names."""

    name: str
    image: np.ndarray
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class ReviewMask:
    """A mask to be reviewed.

    Attributes:
        id: of its annotation.
        label: index in :attr:`ReviewTask.classes`.
        score: of the pseudo label.
        image: index in :attr:`ReviewTask.images`; -1: there is no picture of it, so only its score
            decides.
        outline: an SVG path in pixels of that image.
        agreements: in [0, 1], one for each of :attr:`ReviewTask.agreements`; None: unknown.
    """

    id: Hashable
    label: int
    score: float
    image: int = -1
    outline: str = ""
    agreements: Sequence[float | None] = ()


@dataclass(frozen=True)
class ReviewTask:
    """Everything that is to be reviewed.

    Attributes:
        labels_sha256: of the file of pseudo labels.
        classes: category id -> name.
        masks: all of the file.
        images: of those that have a picture.
        agreements: with what a mask may agree, such as "the student".
        done: the review that the last round heeded.
    """

    labels_sha256: str
    classes: Mapping[Hashable, str]
    masks: Sequence[ReviewMask]
    images: Sequence[ReviewImage] = ()
    agreements: Sequence[str] = ()
    done: Review | None = None


def review_html(task: ReviewTask) -> str:
    """The section's content; its script is :data:`SCRIPT`, to be put at the end of the page."""
    shown = sum(mask.image >= 0 for mask in task.masks)
    note = (
        f"{shown:,} of the {len(task.masks):,} pseudo masks have a picture, those of "
        f"{len(task.images):,} images. "
    )
    if shown < len(task.masks):
        note += (
            "These are the images with the masks that agree or score worst; of the other masks the "
            "least scores below decide. "
        )
    # "<" could end the script element.
    data = to_json(_data(task)).replace("<", "\\u003c")
    return (
        f"<p>{escape(note)}Decisions are kept in this browser until you download them.</p>\n"
        f"{_DESK}\n"
        f'<script type="application/json" id="review-data">{data}</script>'
    )


def _data(task: ReviewTask) -> dict[str, Any]:
    return {
        "labels_sha256": task.labels_sha256,
        "classes": [{"id": id_, "name": name} for id_, name in task.classes.items()],
        "agreements": list(task.agreements),
        "images": [
            {
                "name": image.name,
                "height": image.image.shape[0],
                "width": image.image.shape[1],
                "src": data_uri(image.image, JPEG_QUALITY),
                "labels": list(image.labels),
            }
            for image in task.images
        ],
        "masks": [
            [m.id, m.label, m.score, m.image, m.outline, [_rounded(a) for a in m.agreements]]
            for m in task.masks
        ],
        "done": task.done and task.done.to_json(),
    }


def _rounded(agreement: float | None) -> float | None:
    return None if agreement is None else round(agreement, 3)


#: Filled and shown by the script.
_DESK = """
<noscript><p>To review them, open this page in a browser that runs its script.</p></noscript>
<div class="review" id="review-desk" hidden>
<div class="bar">
<label>Order <select id="review-order"></select></label>
<label>Class <select id="review-class"></select></label>
<label>Show <select id="review-show"></select></label>
<button type="button" id="review-save">Download review.json</button>
<label class="file">Go on with a review <input type="file" id="review-open" \
accept=".json,application/json"></label>
<button type="button" id="review-clear">Forget all decisions</button>
</div>
<p class="status" id="review-status" role="status"></p>
<div class="desk" id="review-work">
<div class="viewer">
<div class="stage" id="review-stage"><svg></svg></div>
<p class="facts-of-mask" id="review-facts" aria-live="polite"></p>
<div class="acts">
<button type="button" id="review-accept">Accept <kbd>a</kbd></button>
<button type="button" id="review-reject">Reject <kbd>r</kbd></button>
<button type="button" id="review-undo">Undecided <kbd>u</kbd></button>
<label>Class is <select id="review-relabel"></select></label>
<button type="button" id="review-set">Set <kbd>Enter</kbd></button>
</div>
</div>
<div class="list">
<div class="thumbs" id="review-list" role="listbox" tabindex="0" aria-label="Pseudo masks" \
aria-describedby="review-keys"></div>
<div class="pager">
<button type="button" id="review-before">Previous page</button>
<span id="review-page"></span>
<button type="button" id="review-after">Next page</button>
</div>
</div>
<div class="keys" id="review-keys">
<p>In the list: <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> another mask, \
<kbd>Page Up</kbd> <kbd>Page Down</kbd> another page, <kbd>a</kbd> accept, <kbd>r</kbd> reject, \
<kbd>u</kbd> undecided, <kbd>w</kbd> to the list of classes (<kbd>Enter</kbd> sets one), or the \
class's own key:</p>
<ul id="review-class-keys"></ul>
</div>
</div>
<h3>Least score per class</h3>
<p class="note">Masks below it go, but for those that were accepted or given another class.</p>
<div class="scores" id="review-scores"></div>
</div>""".strip()
