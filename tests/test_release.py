"""What a release says of itself, and the wheel that it is."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from wsis_d2 import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == __version__
    assert re.findall(r"(?m)^## (\S+)", changelog)[0] == __version__


def test_the_citation_has_what_its_format_wants():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    # With the configs in place of the link to them.
    shutil.copytree(
        ROOT / "wsis_d2", folder / "wsis_d2", ignore=shutil.ignore_patterns("__pycache__")
    )
    _pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder)
    (path,) = folder.glob("*.whl")
    return path


def _pip(command: str, *args: object) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "pip", command, "--no-deps", "--no-index", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]


@pytest.mark.slow
def test_the_wheel_has_its_extras_and_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(
            archive.read(f"wsis_d2-{__version__}.dist-info/METADATA").decode()
        )
    assert metadata["Version"] == __version__
    assert {"crf", "hed", "sam", "timm"} <= set(metadata.get_all("Provides-Extra"))
    requirements = metadata.get_all("Requires-Dist")
    for extra, package in (("crf", "pydensecrf2"), ("sam", "transformers"), ("timm", "timm")):
        assert any(r.startswith(package) and f'"{extra}"' in r for r in requirements)
    assert not any(r.startswith("detectron2") for r in requirements)  # the user's own is kept
    files = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "configs/**/*.yaml", "configs/**/*.py", "weights/*.npz", "*.js")
        for path in (ROOT / "wsis_d2").rglob(pattern)
        if "__pycache__" not in path.parts
    }
    assert files <= names
    assert any(name.endswith(".npz") for name in files)


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(wheel, tmp_path):
    _pip("install", "--target", tmp_path / "site", wheel)
    script = """
import wsis_d2
from wsis_d2.recipes import load_recipe
from wsis_d2.recipes.own_images import CONFIG_FOLDER
from wsis_d2.engine import load_config
load_config(str(CONFIG_FOLDER / "own/irnet_mobile/irnet.yaml"), ["MODEL.CLASSIFIER.NUM_CLASSES", 2])
print(wsis_d2.__version__, len(load_recipe(str(CONFIG_FOLDER / "own/irnet/recipe.yaml")).stages))
print(wsis_d2.__file__)
"""
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    version, file = completed.stdout.splitlines()
    assert version == f"{__version__} 7"
    assert Path(file).is_relative_to(tmp_path / "site")
