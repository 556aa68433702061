"""What classes are called: names, synonyms, files, and mistakes."""

import json

import pytest

from wsis_d2.errors import UserError
from wsis_d2.labeling.synonyms import class_texts, synonym_files

CLASSES = ["tvmonitor", "potted_plant", "cat"]


def test_names_come_first_and_nothing_comes_twice():
    synonyms = ["tvmonitor: tv,  computer   screen,, tv", "cat: kitten", "cat:tom_cat, cat"]
    assert class_texts(CLASSES, synonyms) == [
        ["tvmonitor", "tv", "computer screen"],
        ["potted plant"],
        ["cat", "kitten", "tom cat"],
    ]


def test_a_name_without_letters_stays_a_name():
    assert class_texts(["_", "cat"]) == [["_"], ["cat"]]


def test_files(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"cat": ["kitten", "tom, the cat"]}))
    (tmp_path / "b.yaml").write_text("tvmonitor: tv, screen\npotted_plant: [flower]\n")
    synonyms = [str(tmp_path / "a.json"), "cat: puss", str(tmp_path / "b.yaml")]
    assert class_texts(CLASSES, synonyms) == [
        ["tvmonitor", "tv", "screen"],
        ["potted plant", "flower"],
        ["cat", "kitten", "tom, the cat", "puss"],
    ]
    assert synonym_files(synonyms) == [synonyms[0], synonyms[2]]


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        (["dgo: puppy"], "names 'dgo', which is no class of the dataset: choose one of tvmonitor"),
        (["cat; kitten"], "write 'class: synonym, synonym'"),
        (["cat: TV", "tvmonitor: tv"], "'TV' stands for 'tvmonitor' and for 'cat'"),
        (["cat: potted plant"], "stands for 'potted_plant' and for 'cat'"),
        (["/no/such.json"], "there is no file"),
        (["/no/such.yaml"], "cannot be read"),
    ],
)
def test_mistakes(synonyms, message):
    with pytest.raises(UserError, match="SYNONYMS|there is no file") as error:
        class_texts(CLASSES, synonyms)
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["[1, 2]", '{"cat": 3}', '{"cat": [3]}', "{"])
def test_files_of_another_form(content, tmp_path):
    for name in ("a.json", "a.yaml"):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(UserError, match=str(path)):
            class_texts(CLASSES, [str(path)])
