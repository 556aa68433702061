"""The Dockerfile names commands and files that exist, and its context has what they need.

There is no Docker here: it is read, not built.
"""

import fnmatch
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What any Debian has, and what the tools then install.
SYSTEM_COMMANDS = {"apt-get", "bash", "rm"}


def instructions(text: str) -> list[tuple[str, str]]:
    """(Name, argument) of each instruction, lines that go on joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def commands(run: str) -> list[list[str]]:
    """The words of each command of a RUN, without the variables that are set before it."""
    return [
        [w for i, w in enumerate(command.split()) if i or not re.match(r"\w+=", w)]
        for command in run.split("&&")
    ]


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    return instructions((ROOT / "Dockerfile").read_text())


def test_commands_exist_and_are_the_readmes(dockerfile):
    run = [words for name, run in dockerfile if name == "RUN" for words in commands(run)]
    (start,) = (json.loads(argument) for name, argument in dockerfile if name == "CMD")
    assert {words[0] for words in [*run, start]} <= SYSTEM_COMMANDS
    scripts = [words[1] for words in [*run, start] if words[0] == "bash"]
    assert scripts == ["tools/setup_env.sh", "tools/demo.sh"]
    readme = (ROOT / "README.md").read_text()
    for script in scripts:
        assert script in readme
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_packages_are_those_that_the_set_up_asks_for(dockerfile):
    (install,) = (run for name, run in dockerfile if name == "RUN" and "apt-get install" in run)
    (words,) = (words for words in commands(install) if "install" in words)
    packages = [word for word in words[2:] if not word.startswith("-")]
    advice = re.findall(r"apt-get install ([^)]+)\)", (ROOT / "tools/setup_env.sh").read_text())
    assert {name for names in advice for name in names.split()} <= set(packages)


def test_the_base_image_is_an_argument(dockerfile):
    names = [name for name, _ in dockerfile]
    assert names.index("ARG") < names.index("FROM")
    assert dict(dockerfile)["FROM"] == "${BASE}"


def test_the_examples_name_arguments_and_options_that_exist(dockerfile):
    comments = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("#")
    )
    arguments = {argument.partition("=")[0] for name, argument in dockerfile if name == "ARG"}
    assert set(re.findall(r"--build-arg (\w+)=", comments)) <= arguments
    (options,) = re.findall(r"tools/demo\.sh (--.*)", comments)
    demo = (ROOT / "tools/demo.sh").read_text()
    assert all(f"{option})" in demo for option in re.findall(r"--\w+", options))


def is_ignored(path: str, patterns: list[str]) -> bool:
    """By the last pattern of a .dockerignore that matches a path or a folder that it is in."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    ignored = False
    for pattern in patterns:
        bare = pattern.lstrip("!")
        names = parts if bare.startswith("**/") else above
        if any(_matches(name, bare.removeprefix("**/")) for name in names):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def test_the_context_has_the_repository_and_not_its_outputs():
    text = (ROOT / ".dockerignore").read_text()
    patterns = [line for line in text.splitlines() if line and not line.startswith("#")]
    kept = ["README.md", "setup.py", "datasets/README.md", "tools/requirements.txt"]
    for folder in ("configs", "tools", "wsis_d2"):
        kept += [p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.*")]
    kept = [path for path in kept if "__pycache__" not in path]
    assert len(kept) > 200
    assert [path for path in kept if is_ignored(path, patterns)] == []
    made = [".venv/bin/python", "output/a/b.pth", "datasets/VOC2012/x.jpg", ".git/config"]
    made += ["wsis_d2/layers/__pycache__/pairs.pyc", "wsis_d2.egg-info/PKG-INFO", "build/lib/a.py"]
    assert [path for path in made if not is_ignored(path, patterns)] == []
