"""The package's rooms stand on floors: imports run downward, and none runs in a circle.

Read from the source: what is imported late, in a function, or for type checkers alone counts too.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Rooms are folders and single files of the package; a room imports from lower floors alone.
FLOORS = {
    "__init__": 8,
    "benchmarks": 7,
    "recipes": 7,
    "engine": 6,
    "report": 5,
    "labeling": 4,
    "evaluation": 4,
    "data": 3,
    "proposals": 3,
    "modeling": 3,
    "visualization": 3,
    "structures": 2,
    "layers": 2,
    "weights": 2,
    "allocator": 1,
    "files": 1,
    "first_machine": 1,
    "folder_lock": 1,
    "parallel": 1,
    "processes": 1,
    "fork_server": 1,
    "images": 1,
    "errors": 0,
    "config": 0,
}

#: Up to this floor rooms are single files, which may import their neighbours.
HIGHEST_OF_FILES = 1

#: Imports that go against the floors all the same: (importer, imported) and the reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}

#: Everything may name the version: the package sets it before its own imports, so it is there.
VERSION = "__version__"


@dataclass(frozen=True)
class Import:
    """One imported name.

    Args:
        module: Who imports, a dotted name.
        name: What, as ``package.module.name`` or ``package.module``.
        line: Where.
    """

    module: str
    name: str
    line: int


class Package:
    """The modules of a package and what they import, by their source."""

    def __init__(self, folder: Path):
        self.name = folder.name
        paths = {self._module(path, folder): path for path in sorted(folder.rglob("*.py"))}
        self.imports = {module: read_imports(path, module) for module, path in paths.items()}

    @staticmethod
    def _module(path: Path, folder: Path) -> str:
        parts = path.relative_to(folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def own_imports(self) -> list[tuple[Import, str]]:
        """Imports of modules of the package, with these modules; the version is left out."""
        return [
            (import_, imported)
            for imports in self.imports.values()
            for import_ in imports
            if import_.name != f"{self.name}.{VERSION}"
            and (imported := self.defining_module(import_.name))
        ]

    def defining_module(self, name: str) -> str:
        """The module of the package that a name is or is from, or ""."""
        while name and name not in self.imports:
            name = name.rpartition(".")[0]
        return name

    def room(self, module: str) -> str:
        """The first part of a module's name below the package."""
        return [*module.split("."), "__init__"][1]


def read_imports(path: Path, module: str) -> list[Import]:
    """All imports of a file, wherever they stand in it."""
    package = module.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    imports = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        imports += [Import(module, name, node.lineno) for name in names]
    return imports


def wrong_imports(
    package: Package,
    floors: Mapping[str, int],
    exceptions: Collection[tuple[str, str]] = (),
) -> list[str]:
    """A sentence for each import that leaves its room and does not run downward."""
    rooms = {package.room(module) for module in package.imports}
    wrong = [f"{room} has no floor" for room in sorted(rooms - set(floors))]
    for import_, imported in package.own_imports():
        here, there = package.room(import_.module), package.room(imported)
        if here == there or not {here, there} <= set(floors):
            continue
        if (import_.module, imported) in exceptions:
            continue
        down = floors[there] < floors[here]
        neighbours = floors[there] == floors[here] <= HIGHEST_OF_FILES
        if not down and not neighbours:
            wrong.append(f"{import_.module}, line {import_.line}, imports {imported}")
    return wrong


def find_circle(package: Package) -> list[str]:
    """Modules of which each imports the next and the last is the first; empty if there are none."""
    imported_by: dict[str, set[str]] = {module: set() for module in package.imports}
    for import_, imported in package.own_imports():
        imported_by[import_.module].add(imported)
    try:
        TopologicalSorter(imported_by).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # graphlib has the imported before who imports
    return []


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(ROOT / "wsis_d2")


def test_imports_run_downward(package):
    assert wrong_imports(package, FLOORS, EXCEPTIONS) == []


def test_every_exception_is_needed(package):
    made = {(import_.module, imported) for import_, imported in package.own_imports()}
    assert set(EXCEPTIONS) <= made


def test_no_imports_run_in_a_circle(package):
    circle = find_circle(package)
    assert not circle, " -> ".join(circle)


def test_benchmarks_are_imported_by_their_tool_alone(package):
    importers = {
        import_.module
        for import_, imported in package.own_imports()
        if package.room(imported) == "benchmarks" and package.room(import_.module) != "benchmarks"
    }
    importers |= {
        f"tools/{path.name}"
        for path in (ROOT / "tools").glob("*.py")
        for import_ in read_imports(path, path.stem)
        if import_.name.startswith("wsis_d2.benchmarks")
    }
    assert importers == {"tools/benchmark.py"}


def test_layers_know_no_detectron2_no_files_and_no_config(package):
    layers = [module for module in package.imports if package.room(module) == "layers"]
    assert layers
    names = [import_.name for module in layers for import_ in package.imports[module]]
    assert [name for name in names if name.split(".")[0] in ("detectron2", "fvcore", "yacs")] == []
    # What else stands below them reads files or imports Detectron2.
    rooms = {package.room(there) for i, there in package.own_imports() if i.module in layers}
    assert rooms <= {"layers", "errors"}


TINY_FLOORS = {"__init__": 4, "high": 3, "left": 2, "right": 2, "a": 1, "b": 1, "base": 0}


def write_package(folder: Path, files: Mapping[str, str]) -> Package:
    """A package "tiny" of files, given as their paths in it and their sources."""
    for name, source in {"__init__.py": "", **files}.items():
        path = folder / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return Package(folder / "tiny")


def test_downward_imports_are_fine(tmp_path):
    files = {
        "__init__.py": '__version__ = "1"\nfrom . import high\n',
        "high/__init__.py": "import os.path\nfrom .other import name\nfrom ..left.some import x\n",
        "high/other.py": "from .. import __version__, base\nimport tiny.right.more as more\n",
        "left/some.py": "from ..a import name\nfrom tiny.base import name\n",
        "right/more.py": "",
        "a.py": "from .b import name\n",
        "b.py": "from .base import name\n",
        "base.py": "",
    }
    tiny = write_package(tmp_path, files)
    assert wrong_imports(tiny, TINY_FLOORS) == []
    assert find_circle(tiny) == []


@pytest.mark.parametrize(
    "source",
    [
        "from ..high.other import name\n",
        "from ..high import other\n",
        "from .. import high\n",
        "import tiny.high.other\n",
        "from tiny.high.other import *\n",
        "def late():\n    from ..high.other import name\n",
        "if TYPE_CHECKING:\n    from ..high.other import name\n",
        "from .. import something\n",
    ],
)
def test_upward_imports_are_found(tmp_path, source):
    files = {"left/some.py": source, "high/__init__.py": "", "high/other.py": ""}
    tiny = write_package(tmp_path, files)
    (wrong,) = wrong_imports(tiny, TINY_FLOORS)
    line = len(source.splitlines())
    assert wrong.startswith(f"tiny.left.some, line {line}, imports tiny")


def test_neighbours_need_an_exception(tmp_path):
    files = {"left/some.py": "from ..right.more import name\n", "right/more.py": ""}
    tiny = write_package(tmp_path, files)
    assert wrong_imports(tiny, TINY_FLOORS) == ["tiny.left.some, line 1, imports tiny.right.more"]
    assert wrong_imports(tiny, TINY_FLOORS, {("tiny.left.some", "tiny.right.more")}) == []


def test_a_new_room_needs_a_floor(tmp_path):
    tiny = write_package(tmp_path, {"new/some.py": ""})
    assert wrong_imports(tiny, TINY_FLOORS) == ["new has no floor"]


@pytest.mark.parametrize(
    "back", ["from .a import name\n", "def late():\n    from tiny.a import name\n"]
)
def test_circles_are_found(tmp_path, back):
    files = {"a.py": "from .b import name\n", "b.py": "from .base import name\n", "base.py": back}
    circle = find_circle(write_package(tmp_path, files))
    assert circle[0] == circle[-1]
    following = {"tiny.a": "tiny.b", "tiny.b": "tiny.base", "tiny.base": "tiny.a"}
    assert [following[module] for module in circle[:-1]] == circle[1:]
