"""Where image labels and a detector that was asked for them disagree."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def count_label_noise(
    dataset: Iterable[Mapping[str, Any]],
    boxes: Mapping[str, Any],
    classes: Sequence[str],
    other_classes: bool,
) -> OrderedDict[str, int]:
    """Count labels without a box, and boxes without a label.

    The former are labels that are wrong, or objects that the detector overlooked; the latter are
    labels that are missing, or mistakes of the detector.

    Args:
        dataset: dicts of the images, with ``image_id`` and ``image_labels``, contiguous class ids.
        boxes: a COCO dataset as :class:`LocatedBoxWriter` writes it.
        classes: names of all classes.
        other_classes: whether the detector was asked for classes without a label too.

    Returns:
        "labels" (pairs of an image and a class), "labels without a box", "boxes" and, where these
        were looked for, "boxes without a label"; of all classes, and each as "labels-<class>" of
        one.
    """
    names = {category["id"]: category["name"] for category in boxes["categories"]}
    labels = {(d["image_id"], classes[c]) for d in dataset for c in d["image_labels"]}
    found, counts = set(), {"boxes": Counter(), "boxes without a label": Counter()}
    for annotation in boxes["annotations"]:
        name = names[annotation["category_id"]]
        if annotation["iscrowd"]:
            counts["boxes without a label"][name] += 1
        else:
            counts["boxes"][name] += 1
            found.add((annotation["image_id"], name))
    if not other_classes:
        del counts["boxes without a label"]
    of_labels = Counter(name for _, name in labels)
    missing = Counter(name for _, name in labels - found)
    counts = {"labels": of_labels, "labels without a box": missing, **counts}
    noise = OrderedDict((what, of_classes.total()) for what, of_classes in counts.items())
    for name in classes:
        noise.update((f"{what}-{name}", of_classes[name]) for what, of_classes in counts.items())
    return noise
