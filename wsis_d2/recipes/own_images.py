"""From a folder of images and their labels to pseudo masks, in one call."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.catalog import require_file, require_folder
from ..engine.stages.pseudo_labels import PSEUDO_LABEL_FILE, sem_seg_folder
from ..engine.stages.report import REPORT_FILE
from ..errors import UserError
from ..folder_lock import unlock_folders
from .run import run_recipe

#: In the repository a link to its configs; in a wheel their copies.
CONFIG_FOLDER = Path(__file__).parents[1] / "configs"

_LABEL_STAGE = "pseudo_labels"


@dataclass(frozen=True)
class PseudoLabels:
    """What :func:`pseudo_label` has made.

    Attributes:
        json_file: the masks, a COCO dataset file.
        label_maps: folder of semantic label maps, one PNG per image (0 background, c + 1 for the
            class c, 255 unknown); "" where the method makes none.
        report: HTML page with the figures and pictures of every step; "" without second stage.
        metrics: stage -> its metrics; of the masks there are some only with true ones to measure
            against (the option DATASETS.OWN_TRAIN.GT_JSON).
    """

    json_file: str
    label_maps: str
    report: str
    metrics: dict[str, Any]


def pseudo_label(
    images: str | os.PathLike,
    labels: str | os.PathLike = "",
    *,
    method: str = "irnet",
    output: str | os.PathLike = "output",
    classes: Sequence[str] = (),
    second_stage: bool = False,
    seed: int = 0,
    num_gpus: int = 1,
    resume: bool = True,
    options: Mapping[str, Any] | None = None,
) -> PseudoLabels:
    """Make instance masks for images of which only the classes are known.

    It runs the recipe ``configs/own/<method>_mobile/recipe.yaml``, as ``tools/demo.sh --photos``
    does: a network is trained on the labels, so it takes hours on a CPU. What is done and unchanged
    in ``output`` is skipped.

    Example::

        from wsis_d2 import pseudo_label

        result = pseudo_label("photos", "labels.csv", method="irnet", output="out")
        print(result.json_file, result.metrics)

    Args:
        images: folder of the images.
        labels: CSV, JSON lines, or the JSON of COCO or Label Studio; "": ``images`` has one folder
            per class.
        method: "irnet", "affinitynet", "wise" or another of the recipes.
        output: folder of the results, one folder per stage.
        classes: class names in the order of their ids; empty: those in the labels, sorted.
        second_stage: also train a network on the pseudo labels (Mask R-CNN, of AffinityNet a
            semantic one) and write the report.
        seed: of everything that is drawn.
        num_gpus: GPUs, or processes where there is no GPU.
        resume: a stage that was interrupted goes on where it was.
        options: config keys and their values, of every stage (``{"SOLVER.MAX_ITER": 1000}``) or of
            one (``{"classifier:SOLVER.MAX_ITER": 1000}``).

    Raises:
        UserError: something that the caller can mend: a missing file, an unknown class or method.
    """
    recipe = _recipe_file(method)
    require_folder(os.fspath(images), "the image folder")
    if labels:
        require_file(os.fspath(labels), "the label file")
    opts = {
        "SEED": seed,
        "DATASETS.OWN_TRAIN.IMAGE_ROOT": os.path.abspath(images),
        "DATASETS.OWN_TRAIN.LABELS": os.path.abspath(labels) if labels else "",
        "DATASETS.OWN_TRAIN.CLASSES": tuple(classes),
        **(options or {}),
    }
    # As tools/before_torch.py, for the processes of the stages: threads that wait soon let others
    # work.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        with _no_main_module():
            results = run_recipe(
                recipe,
                os.fspath(output),
                num_gpus=num_gpus,
                resume=resume,
                opts=[item for pair in opts.items() for item in pair],
                last_stage="" if second_stage else _LABEL_STAGE,
            )
    finally:
        unlock_folders()  # the caller may go on for long
    output = os.path.abspath(output)
    json_file = os.path.join(output, _LABEL_STAGE, PSEUDO_LABEL_FILE)
    label_maps = sem_seg_folder(json_file)
    return PseudoLabels(
        json_file,
        label_maps if os.path.isdir(label_maps) else "",
        os.path.join(output, REPORT_FILE) if second_stage else "",
        {stage: result.get("metrics") or {} for stage, result in results.items()},
    )


def _recipe_file(method: str) -> str:
    """The recipe of a method for own images that runs on a CPU."""
    folders = CONFIG_FOLDER.glob("own/*_mobile")
    recipes = {folder.name.removesuffix("_mobile"): folder / "recipe.yaml" for folder in folders}
    if method not in recipes:
        raise UserError(f"the method is {method!r}: choose one of {', '.join(sorted(recipes))}")
    return str(recipes[method])


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Processes that start in here do not import the caller's script.

    Python's new processes do, to find what is defined there; a script that does not ask whether it
    is the main module would run again in each of them. All that the stages need is in modules.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
