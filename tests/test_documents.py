"""What the documents name is there: files, headings, tools, config keys and stages."""

import re
from pathlib import Path

import pytest
from PIL import Image

from wsis_d2.engine import load_config
from wsis_d2.recipes import load_recipe, plan_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), ROOT / "datasets" / "README.md"])
RECIPE = ROOT / "configs" / "own" / "irnet_mobile" / "recipe.yaml"


def anchors(path: Path) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tools_are_there(path):
    names = set(re.findall(r"\b(?:tools|configs)/[\w/]+\.(?:py|sh|yaml)\b", path.read_text()))
    assert [name for name in sorted(names) if not (ROOT / name).is_file()] == []


@pytest.fixture(scope="module")
def tutorial() -> str:
    return (ROOT / "TUTORIAL.md").read_text()


def variables(tutorial: str) -> dict[str, list[list[str]]]:
    """The values that its commands give to arrays of options, in their order, by name."""
    found: dict[str, list[list[str]]] = {}
    for name, value in re.findall(r"(?m)^(DATA|QUICK)=\(([^\n]*?(?:\n +[^\n]*?)*)\)$", tutorial):
        found.setdefault(name, []).append(re.findall(r'"[^"]*"|\S+', value))
    return found


def test_the_tutorials_options_are_taken(tutorial, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("labels", "train", "held_out"):
        (tmp_path / f"{name}.csv").write_text("file_name,labels\n1.jpg,cat\n2.jpg,dog\n")
    for name in "12":
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / f"{name}.jpg")
    arrays = variables(tutorial)
    assert (len(arrays["DATA"]), len(arrays["QUICK"])) == (2, 1)
    for opts in (arrays["DATA"][0] + arrays["QUICK"][0], arrays["DATA"][1]):
        here = [opt.strip('"').replace("../", f"{tmp_path}/") for opt in opts]
        plan = plan_recipe(str(RECIPE), str(tmp_path / "out"), here)
        assert all(stage.why for stage in plan)


def test_the_tutorials_keys_and_stages_exist(tutorial):
    cfg = load_config("", [])
    stages = {stage.name for stage in load_recipe(str(RECIPE)).stages}
    found = re.findall(r"\b(?:([a-z_]+):)?((?:[A-Z_]+\.)+[A-Z_]+)\b", tutorial)
    found = [pair for pair in found if pair[1].split(".")[0] in cfg]
    assert len(found) > 20
    for stage, key in found:
        assert not stage or stage in stages
        node = cfg
        for part in key.split("."):
            node = node[part]  # a KeyError names the part


def test_the_tutorials_program_is_one(tutorial):
    program, changes = re.findall(r"(?ms)^```python\n(.*?)^```", tutorial)
    at = "cfg.MODEL.WEIGHTS = "
    assert program.count(at) == changes.count(at) == 1
    for source in (program, re.sub(f"{at}.*\n", lambda _: changes, program)):
        compile(source, "stock.py", "exec")
