"""Installation of wsis_d2. Detectron2 is left to the user: see README.md, "Install"."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "wsis_d2/__init__.py").read_text()).group(1)

setup(
    name="wsis_d2",
    version=VERSION,
    description="Weakly supervised instance segmentation for Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=("wsis_d2", "wsis_d2.*")),
    package_data={
        "wsis_d2": ["configs/**/*.yaml", "configs/**/*.py"],  # wsis_d2/configs links to configs
        "wsis_d2.proposals": ["weights/*.npz"],
        "wsis_d2.report": ["*.js"],
    },
    python_requires=">=3.10",
    # Detectron2 is required too, but it is not on PyPI under its own name and most users have their
    # own build of it, which must be kept: so it is checked at import, not pulled in by pip.
    install_requires=[
        "torch>=2.0",
        "torchvision>=0.15",
        "fvcore>=0.1.5",
        "numpy>=1.24",
        "scipy>=1.10",
        "opencv-python>=4.7",
        "scikit-image>=0.21",
        "pycocotools>=2.0.7",
        "Pillow>=9.5",
        "matplotlib>=3.7",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        "crf": ["pydensecrf2"],
        "hed": ["h5py"],
        "sam": ["transformers>=5.0"],
        "timm": ["timm>=1.0.11", "safetensors>=0.4", "huggingface_hub"],
        # Supervision reads exported labels in tests, which are skipped without it.
        "dev": ["pytest", "pytest-timeout", "hypothesis", "ruff", "supervision"],
    },
)
