#!/usr/bin/env python3
"""Install Detectron2 0.6 from PyPI as a pure-Python wheel named ``detectron2``.

Detectron2 itself is not on PyPI. ``pb1-detectron2`` is a source distribution of release 0.6 whose
Python files equal the upstream tag ``v0.6`` but whose C++ sources are missing, so pip cannot build
it. This script downloads that one file, checks its hash, applies the forward ports in
:data:`FORWARD_PORTS`, and builds and installs a wheel without the compiled ``_C`` ops (torchvision
has the ones that Mask R-CNN needs). Run it with the interpreter of the target environment, with
torch installed there. ``tools/setup_env.sh`` does; so can you, in an environment of your own.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
#: A local version, so that `pip list` shows that this is 0.6 with forward ports.
VERSION = "0.6+pure"


class ForwardPort(NamedTuple):
    """One textual change: in files that match ``glob``, ``pattern`` (regex) becomes ``new``."""

    why: str
    glob: str
    pattern: str
    new: str


_UNGUARDED_C = r"^from detectron2 import _C$"
_GUARDED_C = (
    "try:\n    from detectron2 import _C\n"
    "except ImportError:  # pure-Python build: these ops raise when called, not when imported\n"
    "    _C = None"
)

FORWARD_PORTS = (
    ForwardPort(
        "numpy 1.24 removed the aliases of Python's own types",
        "detectron2/**/*.py",
        r"\bnp\.(bool|int|float|str|object)\b(?!_)",
        r"\1",
    ),
    ForwardPort(
        "Pillow 10 removed Image.LINEAR, an alias of BILINEAR",
        "detectron2/data/transforms/transform.py",
        r"\bImage\.LINEAR\b",
        "Image.BILINEAR",
    ),
    ForwardPort(
        "no compiled ops: deformable convolution",
        "detectron2/layers/deform_conv.py",
        _UNGUARDED_C,
        _GUARDED_C,
    ),
    ForwardPort(
        "no compiled ops: rotated IoU",
        "detectron2/layers/rotated_boxes.py",
        _UNGUARDED_C,
        _GUARDED_C,
    ),
    ForwardPort(
        "no compiled ops: rotated RoIAlign",
        "detectron2/layers/roi_align_rotated.py",
        _UNGUARDED_C,
        _GUARDED_C,
    ),
    ForwardPort(
        "no compiled ops: COCO evaluation falls back to pycocotools, as upstream's main does",
        "detectron2/evaluation/coco_evaluation.py",
        r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval",
    ),
    ForwardPort(
        "setuptools 81 removed pkg_resources",
        "detectron2/model_zoo/model_zoo.py",
        r"^import pkg_resources$",
        "from importlib.resources import files as _package_files",
    ),
    ForwardPort(
        "setuptools 81 removed pkg_resources",
        "detectron2/model_zoo/model_zoo.py",
        r"pkg_resources\.resource_filename\(\s*\"detectron2\.model_zoo\",\s*(.+?)\s*\)\n",
        r'str(_package_files("detectron2.model_zoo").joinpath(\1))' + "\n",
    ),
    ForwardPort(
        "torch.meshgrid warns on every forward pass unless its indexing is named",
        "detectron2/modeling/anchor_generator.py",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
)

_SETUP_PY = f'''
from setuptools import find_packages, setup

projects = {{
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}}
setup(
    name="detectron2",
    version="{VERSION}",
    url="https://github.com/facebookresearch/detectron2",
    description="Detectron2 0.6, pure Python, ported forward to current dependencies",
    license="Apache-2.0",
    packages=find_packages(include=("detectron2", "detectron2.*")) + list(projects),
    package_dir=projects,
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    python_requires=">=3.10",
    install_requires=[
        "Pillow>=7.1", "matplotlib", "pycocotools>=2.0.2", "termcolor>=1.1", "yacs>=0.1.8",
        "tabulate", "cloudpickle", "tqdm>4.29.0", "tensorboard", "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7", "omegaconf>=2.1", "hydra-core>=1.1", "black",
    ],
)
'''


def download(folder: Path) -> Path:
    """Download the source distribution into ``folder`` and check its hash."""
    # pip reads a source distribution's metadata by running its setup.py, which imports torch: hence
    # no build isolation.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary=:all:", "--no-build-isolation", "--dest", str(folder), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True)
    archives = sorted(folder.glob("*.tar.gz"))
    if result.returncode or len(archives) != 1:
        raise SystemExit(
            f"error: pip could not download {REQUIREMENT} ({result.stderr.strip()[-400:]}). Check "
            "the network, or set DETECTRON2_SPEC to a path or URL of a Detectron2 that you have."
        )
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(
            f"error: {archives[0].name} has sha256 {digest}, expected {SHA256}: it is not the file "
            "that was reviewed, so nothing was installed. Set DETECTRON2_SPEC to use another one."
        )
    return archives[0]


def apply_forward_ports(source: Path) -> None:
    """Apply every port in :data:`FORWARD_PORTS`; one that matches nothing is an error."""
    for port in FORWARD_PORTS:
        changed = 0
        for path in sorted(source.glob(port.glob)):
            old = path.read_text(encoding="utf-8")
            new, count = re.subn(port.pattern, port.new, old, flags=re.MULTILINE)
            if count:
                path.write_text(new, encoding="utf-8")
                changed += count
        if not changed:
            raise SystemExit(f"error: forward port '{port.why}' ({port.glob}) matched nothing")


def build_wheel(folder: Path) -> Path:
    """Download, port and build inside ``folder``; returns the wheel's path."""
    with tarfile.open(download(folder)) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (p for p in folder.iterdir() if p.is_dir())
    apply_forward_ports(source)
    (source / "setup.py").write_text(_SETUP_PY, encoding="utf-8")
    shutil.rmtree(source / "pb1_detectron2.egg-info", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("detectron2-*.whl")
    return wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel-dir", type=Path, help="keep the wheel here instead of installing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build_wheel(Path(temporary))
        if args.wheel_dir:
            args.wheel_dir.mkdir(parents=True, exist_ok=True)
            print(shutil.copy(wheel, args.wheel_dir))
            return
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--force-reinstall"]
        subprocess.run([*command, "--no-deps", str(wheel)], check=True)
        print(f"installed {wheel.name}")


if __name__ == "__main__":
    main()
