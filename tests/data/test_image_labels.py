"""The doors for the user's own images: CSV, JSON lines, class folders, COCO, Label Studio."""

import contextlib
import json

import pytest
from conftest import json_values
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsis_d2 import add_wsis_config
from wsis_d2.data import (
    check_image_level_dataset,
    ground_truth_json,
    load_class_folders,
    load_coco_image_labels,
    load_image_labels_csv,
    load_image_labels_jsonl,
    load_label_studio_choices,
    make_image_level,
    register_image_level_dataset,
    register_own_datasets,
)
from wsis_d2.data.image_files import read_image_sizes
from wsis_d2.errors import UserError

KEYS = {"file_name", "image_id", "height", "width", "image_labels"}


@pytest.fixture
def root(tmp_path):
    """Images of different sizes: height 10 + i, width 20 + i."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "b.png", "sub/c, d.jpg")):
        Image.new("RGB", (20 + i, 10 + i)).save(folder / name)
    return folder


@pytest.fixture
def catalog():
    """Forgets the datasets that a test registers."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write(path, text, **kwargs):
    path.write_text(text, **{"encoding": "utf-8", **kwargs})
    return str(path)


def coco(images, annotations, categories):
    """Content of a COCO JSON from (id, file name), (image id, category id) and (id, name)."""
    return {
        "images": [{"id": id_, "file_name": name, "height": 5, "width": 6} for id_, name in images],
        "annotations": [
            {
                "id": i,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [0, 0, 2, 2],
                "segmentation": [[0, 0, 2, 0, 2, 2]],
                "area": 2,
                "iscrowd": 0,
            }
            for i, (image_id, category_id) in enumerate(annotations, start=1)
        ],
        "categories": [{"id": id_, "name": name} for id_, name in categories],
    }


# CSV


def test_csv(root, tmp_path):
    path = write(
        tmp_path / "l.csv",
        "\ufeffnote,file_name,labels\r\nx,b.png,dog ; traffic light;dog;\r\n"
        ',"sub/c, d.jpg",cat\r\n\r\ny,./a.jpg,dog\r\n',
        newline="",
    )
    assert load_image_labels_csv(path, str(root)) == [
        {
            "file_name": f"{root}/{name}",
            "image_id": i + 1,
            "height": 10 + i,
            "width": 20 + i,
            "image_labels": labels,
        }
        for i, (name, labels) in enumerate(
            [("a.jpg", [1]), ("b.png", [1, 2]), ("sub/c, d.jpg", [0])]
        )
    ]
    given = load_image_labels_csv(path, str(root), ["traffic light", "bird", "dog", "cat"])
    assert [d["image_labels"] for d in given] == [[2], [0, 2], [3]]


def test_csv_of_a_photo_that_lies_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    path = write(tmp_path / "l.csv", "file_name,labels\na.jpg,dog\n")
    (dataset_dict,) = load_image_labels_csv(path, str(tmp_path))
    assert (dataset_dict["height"], dataset_dict["width"]) == (30, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,labels\na.jpg,dgo\n", r"label 'dgo' of image 'a.jpg'.*did you mean 'dog'"),
        ("file_name,labels\na.jpg,dog:0\n", r"'dog:0' in line 2 .* counts nothing"),
        ("file_name,labels\na.jpg,dog:0+\n", r"'dog:0\+' in line 2 .* counts nothing"),
        ("file_name,labels\na.jpg,dog; :2\n", r"':2' in line 2 .* has no class name"),
        ("file_name,labels\na.jpg,dog:4+\n", r"'dog:4\+' .*must be exact \(up to 4\).*'dog:5\+'"),
        ("file_name,labels\na.jpg,dog:2;dog:3\n", r"line 2 .* counts 'dog' twice, 2 and 3"),
        ("file_name,labels\na.jpg,dgo:2\n", r"label 'dgo' of image 'a.jpg'.*did you mean 'dog'"),
        ("file_name,labels\na.jpg,dog\nb.png, ;\n", r"'b.png' has no labels .*1 such lines: 3"),
        ("file_name,labels\na.jpg\n", r"'a.jpg' has no labels"),
        ("file_name,labels\na.jpg,dog\n./a.jpg,cat\n", r"line 3 .* lists 'a.jpg' a second time"),
        ("file_name,labels\na.jpg,dog,cat\n", r"line 2 .* more cells"),
        ("file_name,labels\n,dog\n", r"line 2 .* has no file name"),
        ("file_name;labels\na.jpg;dog\n", r"lacks the columns .*'file_name;labels'"),
        ("", r"lacks the columns"),
        ("file_name,labels\n", r"lists no image"),
        ('file_name,labels\n"a.jpg,dog\n', r"no CSV file in UTF-8"),
        ("file_name,labels\nnowhere.jpg,dog\nb.png,dog\n", r"'.*nowhere.jpg', listed .* is absent"),
        ("file_name,labels\nbroken.jpg,dog\n", r"image '.*broken.jpg' cannot be read"),
    ],
)
def test_csv_errors(root, tmp_path, text, message):
    (root / "broken.jpg").write_bytes(b"no image")
    path = write(tmp_path / "l.csv", text)
    with pytest.raises(UserError, match=message):
        load_image_labels_csv(path, str(root), ["cat", "dog"])


def test_csv_of_counts(root, tmp_path):
    path = write(
        tmp_path / "l.csv",
        "file_name,labels\na.jpg,dog : 2;cat:5+; dog\nb.png,dog:7;cat\n"
        '"sub/c, d.jpg",traffic: light\n',
    )
    dicts = load_image_labels_csv(path, str(root))
    assert [(d["image_labels"], d.get("image_counts")) for d in dicts] == [
        ([0, 1], [5, 2]),
        ([0, 1], [0, 7]),
        ([2], None),
    ]
    reverse = load_image_labels_csv(path, str(root), ["traffic: light", "dog", "cat"])
    assert reverse[0]["image_counts"] == [2, 5]
    with pytest.raises(UserError, match=r"'cat:5\+' .*must be exact \(up to 6\)"):
        load_image_labels_csv(path, str(root), max_count=6)


def test_csv_missing_places(root, tmp_path):
    path = write(tmp_path / "l.csv", "file_name,labels\na.jpg,dog\n")
    with pytest.raises(UserError, match=r"the label file, '.*no.csv', is missing"):
        load_image_labels_csv(str(tmp_path / "no.csv"), str(root))
    with pytest.raises(UserError, match=r"the image folder, '.*nowhere', is missing"):
        load_image_labels_csv(path, str(tmp_path / "nowhere"))
    (tmp_path / "latin.csv").write_bytes("file_name,labels\na.jpg,dög\n".encode("latin-1"))
    with pytest.raises(UserError, match="no CSV file in UTF-8"):
        load_image_labels_csv(str(tmp_path / "latin.csv"), str(root))


names = (
    st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=";"), min_size=1)
    .map(lambda text: f"n {text}")
    .filter(lambda text: not text[-1].isdigit() and text[-1] != "+")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.sets(names, min_size=1, max_size=4), min_size=1, max_size=3),
    bom=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(root, tmp_path, rows, bom, line_end):
    files = ["a.jpg", "b.png", "sub/c, d.jpg"][: len(rows)]
    lines = ["file_name,labels"]
    for file, labels in zip(files, rows):
        cell = ";".join(labels).replace('"', '""')
        lines.append(f'"{file}","{cell}"')
    path = write(
        tmp_path / "l.csv",
        line_end.join(lines),
        encoding="utf-8-sig" if bom else "utf-8",
        newline="",
    )
    classes = sorted(set().union(*rows))
    dicts = load_image_labels_csv(path, str(root))
    assert [{classes[i] for i in d["image_labels"]} for d in dicts] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(names, st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=3
    ),
    max_count=st.integers(1, 4),
    blank=st.sampled_from(["", " ", "\t"]),
    or_more=st.booleans(),
)
def test_counts_round_trip(root, tmp_path, rows, max_count, blank, or_more):
    """What is written, 0 as a name without a count, is read again and capped for training."""
    files = ["a.jpg", "b.png", "sub/c, d.jpg"][: len(rows)]

    def cell(name, count):
        open_ended = or_more and count > max_count
        return f"{name}{blank}:{blank}{count}{'+' * open_ended}" if count else name

    lines = ["file_name,labels"]
    for file, row in zip(files, rows):
        text = f"{blank};".join(cell(*item) for item in row.items()).replace('"', '""')
        lines.append(f'"{file}","{text}"')
    path = write(tmp_path / "l.csv", "\n".join(lines), newline="")
    classes = sorted(set().union(*rows))
    dicts = load_image_labels_csv(path, str(root), max_count=max_count)
    for d, capped, row in zip(dicts, make_image_level(dicts, max_count), rows):
        assert d["image_labels"] == sorted(classes.index(name) for name in row)
        expected = [row[classes[i]] for i in d["image_labels"]]
        assert d.get("image_counts", [0] * len(row)) == expected
        assert ("image_counts" in d) == any(expected)
        capped_counts = capped.get("image_counts", [0] * len(row))
        assert capped_counts == [
            count if count <= max_count else max_count + 1 for count in expected
        ]


# Metadata of a Hugging Face imagefolder


def test_metadata_csv(root, tmp_path):
    path = write(
        tmp_path / "metadata.csv",
        "file_name,label\na.jpg,dog\n"
        'b.png,"[""dog"", ""a, b""]"\n'
        """"sub/c, d.jpg","['cat', ""dog's""]"\n""",
    )
    classes = ["a, b", "cat", "dog", "dog's"]
    dicts = load_image_labels_csv(path, str(root))
    assert [d["image_labels"] for d in dicts] == [[2], [0, 2], [1, 3]]
    assert [[classes[i] for i in d["image_labels"]] for d in dicts][2] == ["cat", "dog's"]
    # What is no list of quoted names is a name.
    path = write(tmp_path / "l.csv", "file_name,labels\na.jpg,[dog];['cat'\n")
    (dataset_dict,) = load_image_labels_csv(path, str(root), ["['cat'", "[dog]"])
    assert dataset_dict["image_labels"] == [0, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.sets(names, min_size=1, max_size=4), min_size=1, max_size=3),
    key=st.sampled_from(["label", "labels"]),
    ascii_only=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_round_trip(root, tmp_path, rows, key, ascii_only, line_end):
    files = ["a.jpg", "b.png", "sub/c, d.jpg"][: len(rows)]
    values = [sorted(row) if len(row) > 1 else next(iter(row)) for row in rows]
    lines = [
        json.dumps({"file_name": file, "other": None, key: value}, ensure_ascii=ascii_only)
        for file, value in zip(files, values)
    ]
    path = write(tmp_path / "metadata.jsonl", line_end.join(lines), newline="")
    classes = sorted(set().union(*rows))
    dicts = load_image_labels_jsonl(path, str(root))
    assert [d["file_name"] for d in dicts] == [f"{root}/{file}" for file in files]
    assert [{classes[i] for i in d["image_labels"]} for d in dicts] == rows


def test_jsonl_of_class_numbers(root, tmp_path):
    path = write(tmp_path / "m.jsonl", '{"file_name": "b.png", "label": [7, 0]}\n')
    (dataset_dict,) = load_image_labels_jsonl(path, str(root), ["0", "3", "7"])
    assert dataset_dict["image_labels"] == [0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a.jpg", "label": "dgo"}', r"label 'dgo' of image .*did you mean 'dog'"),
        ('{"file_name": "a.jpg", "label": 1.5}', "label in line 1 of .* is no class name"),
        ('{"file_name": "a.jpg", "labels": ["dog", true]}', "labels in line 1 of .* is no class"),
        ('{"file_name": "a.jpg", "labels": {"dog": 1}}', "labels in line 1 of .* is no class name"),
        ('{"file_name": "a.jpg", "text": "x"}', "neither label nor labels .*'file_name', 'text'"),
        ('{"file_name": 3, "label": "dog"}', "line 1 of .* has no file_name"),
        ('{"file_name": " ", "label": "dog"}', "line 1 of .* has no file name"),
        ('["a.jpg", "dog"]', "line 1 of .* has no file_name"),
        ('\n{"file_name": "a.jpg", "label"', "line 2 of .* is not JSON"),
        ("[" * 100_000, "line 1 of .* is not JSON"),
        ("", "lists no image"),
        ('{"file_name": "a.jpg", "label": null}', "'a.jpg' has no labels .*1 such lines: 1"),
        ('{"file_name": "no.jpg", "label": "dog"}', "no.jpg', listed in .* is absent"),
        (
            '{"file_name": "a.jpg", "label": "dog"}\n{"file_name": "./a.jpg", "label": "cat"}',
            "line 2 of .* lists 'a.jpg' a second time",
        ),
    ],
)
def test_jsonl_errors(root, tmp_path, text, message):
    path = write(tmp_path / "m.jsonl", text)
    with pytest.raises(UserError, match=message):
        load_image_labels_jsonl(path, str(root), ["cat", "dog"])


def test_jsonl_of_another_encoding(root, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"file_name": "a.jpg", "label": "dög"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not in UTF-8"):
        load_image_labels_jsonl(str(path), str(root))


# Label Studio


def task(address, *annotations, **more):
    """A task of Label Studio's export "JSON"; an annotation is a list of choices or None."""
    return {
        "id": 3,
        "data": {"image": address},
        "annotations": [
            {
                "was_cancelled": choices is None,
                "result": [
                    {"type": "choices", "value": {"choices": choices or ["wrong"]}},
                    {"type": "rectanglelabels", "value": {"rectanglelabels": ["box"]}},
                ],
            }
            for choices in annotations
        ],
        "predictions": [{"result": [{"type": "choices", "value": {"choices": ["guess"]}}]}],
        **more,
    }


def test_label_studio(root, tmp_path):
    tasks = [
        task("/data/upload/1/0123abcd-a.jpg", ["dog", "cat"]),
        task("/data/local-files/?d=photos/b.png", ["dog"], None, ["cat", "dog"], ["cow"]),
        task("https://host/x/sub/c%2C%20d.jpg?size=3", ["cat"]),
    ]
    path = write(tmp_path / "project.json", json.dumps(tasks))
    dicts = load_label_studio_choices(path, str(root))
    assert [d["file_name"] for d in dicts] == [
        f"{root}/{name}" for name in ("a.jpg", "b.png", "sub/c, d.jpg")
    ]
    assert [d["image_labels"] for d in dicts] == [[0, 1], [1], [0]]  # cat, dog


def test_label_studio_minimal(root, tmp_path):
    tasks = [
        {"image": "s3://bucket/a.jpg", "id": 1, "choice": "dog", "annotator": 1},
        {"img": "/data/upload/b.png", "id": 2, "scene": {"choices": ["cat", "dog"]}},
    ]
    path = write(tmp_path / "project.json", json.dumps(tasks))
    dicts = load_label_studio_choices(path, str(root))
    assert [d["image_labels"] for d in dicts] == [[1], [0, 1]]


def test_label_studio_takes_the_longest_end_that_is_a_file(root, tmp_path):
    Image.new("RGB", (4, 4)).save(root / "sub" / "a.jpg")
    Image.new("RGB", (4, 4)).save(root / "01234567-b.png")
    addresses = ["/data/x/sub/a.jpg", "/data/upload/7/01234567-b.png", "/../../sub/../a.jpg"]
    tasks = [task(address, ["dog"]) for address in addresses]
    path = write(tmp_path / "project.json", json.dumps(tasks))
    with pytest.raises(UserError, match="task 3 of .* lists 'sub/a.jpg' a second time"):
        load_label_studio_choices(path, str(root))
    path = write(tmp_path / "project.json", json.dumps(tasks[:2]))
    names = [d["file_name"] for d in load_label_studio_choices(path, str(root))]
    assert names == [f"{root}/01234567-b.png", f"{root}/sub/a.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "is no export of Label Studio"),
        ([], "lists no image: add one task"),
        ([3], "task 1 of .* is not in Label Studio's format"),
        ([task("a.jpg", ["dog"]), {"annotations": 3, "data": {}}], "task 2 of .* is not in"),
        ([task("a.jpg", [7])], "task 1 of .* is not in .*a choice is not a text"),
        ([task("http://[", ["dog"])], "task 1 of .* is not in Label Studio's"),
        ([task("", ["dog"])], "task 1 of .* has no address of an image"),
        ([{"data": {"text": "hello"}, "annotations": []}], "has no address of an image"),
        ([task("a.jpg", None)], "'a.jpg' has no labels .*1 such tasks: 1.*remove the tasks"),
        ([task("/data/0123abcd-no.jpg", ["dog"])], "/no.jpg', listed in .* is absent"),
    ],
)
def test_label_studio_errors(root, tmp_path, content, message):
    path = write(tmp_path / "project.json", json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_label_studio_choices(path, str(root))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.lists(
        json_values("data", "image", "annotations", "result", "value", "choices", "type", "choice"),
        max_size=3,
    )
)
def test_label_studio_of_anything(root, tmp_path, content):
    """Anything is labels or an error of ours."""
    path = write(tmp_path / "project.json", json.dumps(content))
    with contextlib.suppress(UserError):
        load_label_studio_choices(path, str(root))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=st.lists(json_values("file_name", "label", "labels"), max_size=3))
def test_jsonl_of_anything(root, tmp_path, lines):
    """Anything is labels or an error of ours."""
    path = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines)))
    with contextlib.suppress(UserError):
        load_image_labels_jsonl(path, str(root))


# Class folders


def test_class_folders(tmp_path):
    for name in ("dog/b.jpg", "cat/x/y.PNG", "dog/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / name)
    for name in ("dog/notes.txt", ".hidden/a.jpg", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dicts = load_class_folders(str(tmp_path))
    assert [d["file_name"] for d in dicts] == [
        f"{tmp_path}/{name}" for name in ("cat/x/y.PNG", "dog/a.png", "dog/b.jpg")
    ]
    assert [d["image_labels"] for d in dicts] == [[0], [1], [1]]
    assert [d["image_id"] for d in dicts] == [1, 2, 3]
    assert [d["image_labels"] for d in load_class_folders(str(tmp_path), ["dog", "cat"])] == [
        [1],
        [0],
        [0],
    ]
    with pytest.raises(UserError, match="label 'cat' .* not among the classes"):
        load_class_folders(str(tmp_path), ["dog"])
    (tmp_path / "z.jpg").touch()
    with pytest.raises(UserError, match="z.jpg' lies outside of the class folders"):
        load_class_folders(str(tmp_path))


def test_class_folders_of_a_split_dataset(tmp_path):
    """As YOLO's classification and Hugging Face's imagefolder have it."""
    for name in ("train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / name)
    assert [d["image_labels"] for d in load_class_folders(str(tmp_path / "train"))] == [[0], [1]]
    (dataset_dict,) = load_class_folders(str(tmp_path / "val"), ["cat", "dog"])
    assert dataset_dict["image_labels"] == [0]
    with pytest.raises(UserError, match=r"a split dataset \(train, val\).*give '.*/train' as"):
        load_class_folders(str(tmp_path))
    # A class of trains is one.
    Image.new("L", (4, 3)).save(tmp_path / "train" / "thomas.jpg")
    assert len(load_class_folders(str(tmp_path))) == 4


def test_class_folders_without_images(tmp_path):
    with pytest.raises(UserError, match="no images in class folders"):
        load_class_folders(str(tmp_path))
    with pytest.raises(UserError, match="is missing"):
        load_class_folders(str(tmp_path / "nowhere"))


# COCO JSON


def test_coco_json_gives_labels_alone(root, tmp_path):
    content = coco(
        [(70, "b.png"), (7, "a.jpg"), (8, "sub/c, d.jpg")],
        [(70, 9), (70, 4), (70, 9), (7, 4)],
        [(9, "cat"), (4, "dog"), (5, "bird")],
    )
    path = write(tmp_path / "x.json", json.dumps(content))
    dicts = load_coco_image_labels(path, str(root))
    assert all(set(d) == KEYS | {"image_counts"} for d in dicts)
    assert [(d["image_id"], d["image_labels"]) for d in dicts] == [(7, [0]), (70, [0, 2])]
    assert [d["image_counts"] for d in dicts] == [[1], [1, 2]]
    assert (dicts[0]["height"], dicts[0]["width"]) == (5, 6)
    dicts = load_coco_image_labels(path, str(root), ["cat", "dog"])
    assert [d["image_labels"] for d in dicts] == [[1], [0, 1]]
    assert [d["image_counts"] for d in dicts] == [[1], [2, 1]]
    with pytest.raises(UserError, match="label 'cat'"):
        load_coco_image_labels(path, str(root), ["dog"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "not in COCO's instance format"),
        ("{}", "needs the keys images, annotations, categories"),
        (coco([(1, "a.jpg")], [(2, 1)], [(1, "dog")]), "not in COCO's .*unknown: 2"),
        (coco([(1, "a.jpg")], [(1, 2)], [(1, "dog")]), "not in COCO's .*unknown: 2"),
        (coco([(1, "a.jpg")], [(1, 1)], [(1, "dog"), (2, "dog")]), "'dog' is named twice"),
        (coco([(1, "a.jpg"), (2, "a.jpg")], [(1, 1), (2, 1)], [(1, "dog")]), "'a.jpg' twice"),
        (coco([(1, "a.jpg")], [], [(1, "dog")]), "no annotated image"),
        (coco([(1, "no.jpg")], [(1, 1)], [(1, "dog")]), "no.jpg', listed in .* is absent"),
    ],
)
def test_coco_json_errors(root, tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    path = write(tmp_path / "x.json", text)
    with pytest.raises(UserError, match=message):
        load_coco_image_labels(path, str(root))


# Registration


def test_register_csv(root, tmp_path, catalog):
    path = write(tmp_path / "l.csv", "file_name,labels\na.jpg,dog;cat\n")
    register_image_level_dataset("own", str(root), path)
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert (metadata.image_root, metadata.gt_json) == (str(root), "")
    assert metadata.supervision == "image_labels"
    assert DatasetCatalog.get("own")[0]["image_labels"] == [0, 1]
    assert ground_truth_json("own") == ""

    register_image_level_dataset("own", str(root), path)
    assert MetadataCatalog.get("own") is metadata
    register_image_level_dataset("own", str(root), path, ("bird", "dog", "cat"))
    assert MetadataCatalog.get("own").thing_classes == ["bird", "dog", "cat"]
    assert DatasetCatalog.get("own")[0]["image_labels"] == [1, 2]


def test_registration_is_lazy_where_classes_are_given(tmp_path, catalog):
    register_image_level_dataset("own", str(tmp_path / "no"), str(tmp_path / "no.csv"), ("dog",))
    with pytest.raises(UserError, match="the label file"):
        DatasetCatalog.get("own")
    register_image_level_dataset("own", str(tmp_path), str(tmp_path / "l.txt"), ("dog",))
    with pytest.raises(UserError, match="neither a .csv nor a .json"):
        DatasetCatalog.get("own")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.jsonl", '{"file_name": "a.jpg", "labels": ["dog", "cat"]}'),
        ("m.json", json.dumps([{"image": "/data/a.jpg", "choice": {"choices": ["dog", "cat"]}}])),
    ],
)
def test_register_other_label_files(root, tmp_path, catalog, name, text):
    path = write(tmp_path / name, text)
    register_image_level_dataset("own", str(root), path)
    assert MetadataCatalog.get("own").thing_classes == ["cat", "dog"]
    assert DatasetCatalog.get("own")[0]["image_labels"] == [0, 1]
    register_image_level_dataset("own", str(root), path, ("bird", "dog", "cat"))
    assert MetadataCatalog.get("own").thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
    assert DatasetCatalog.get("own")[0]["image_labels"] == [1, 2]


def test_ids_of_the_ground_truth(root, tmp_path, catalog):
    path = write(tmp_path / "l.csv", "file_name,labels\na.jpg,dog\nb.png,cat\n")
    content = coco([(90, "a.jpg"), (80, "b.png")], [(90, 7)], [(7, "dog"), (3, "cat"), (5, "cow")])
    gt_json = write(tmp_path / "gt.json", json.dumps(content))
    register_image_level_dataset("own", str(root), path, gt_json=gt_json)
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_classes == ["cat", "cow", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 5: 1, 7: 2}
    dicts = DatasetCatalog.get("own")
    assert [(d["image_id"], d["image_labels"]) for d in dicts] == [(90, [2]), (80, [0])]
    assert all(set(d) == KEYS for d in dicts)
    assert ground_truth_json("own") == gt_json

    register_image_level_dataset("own", str(root), path, ("dog", "cat"), gt_json)
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 3: 1}
    assert [d["image_labels"] for d in DatasetCatalog.get("own")] == [[0], [1]]

    with pytest.raises(UserError, match=r"class 'dig' is not among .*did you mean 'dog'"):
        register_image_level_dataset("own", str(root), path, ("dig", "cat"), gt_json)
    write(tmp_path / "gt.json", json.dumps(coco([(90, "a.jpg")], [], [(7, "dog"), (3, "cat")])))
    with pytest.raises(UserError, match=r"'b.png' is not among the images of the ground truth"):
        DatasetCatalog.get("own")
    (tmp_path / "gt.json").unlink()
    with pytest.raises(UserError, match="the ground truth of dataset 'own'"):
        ground_truth_json("own")


def test_ground_truth_of_an_unknown_dataset():
    with pytest.raises(UserError, match=r"'shape_train' is not registered \(did you mean 'shapes_"):
        ground_truth_json("shape_train")


def test_own_datasets_of_a_config(root, tmp_path, catalog):
    cfg = get_cfg()
    add_wsis_config(cfg)
    before = set(DatasetCatalog)
    register_own_datasets(cfg)
    assert set(DatasetCatalog) == before

    train, test = cfg.DATASETS.OWN_TRAIN, cfg.DATASETS.OWN_TEST
    train.IMAGE_ROOT = test.IMAGE_ROOT = str(root)
    train.LABELS = write(tmp_path / "train.csv", "file_name,labels\na.jpg,dog\nb.png,cat\n")
    test.LABELS = write(tmp_path / "test.csv", "file_name,labels\na.jpg,dog\n")
    content = coco([(1, "a.jpg")], [(1, 1)], [(1, "cat"), (2, "dog")])
    cfg.DATASETS.PSEUDO.JSON = write(tmp_path / "pseudo.json", json.dumps(content))
    cfg.DATASETS.PSEUDO.IMAGE_ROOT = str(root)
    for _ in range(2):
        register_own_datasets(cfg)
    # The test set lacks cats, and yet its dog is class 1.
    assert DatasetCatalog.get("own_test")[0]["image_labels"] == [1]
    assert len(DatasetCatalog.get("own_train")) == 2
    (pseudo,) = DatasetCatalog.get("pseudo_labels")
    assert [a["category_id"] for a in pseudo["annotations"]] == [0]
    assert MetadataCatalog.get("pseudo_labels").thing_classes == ["cat", "dog"]
    assert ground_truth_json("pseudo_labels") == "", "pseudo labels are no ground truth"

    cfg.DATASETS.PSEUDO.JSON = str(tmp_path / "no.json")
    register_own_datasets(cfg)
    with pytest.raises(UserError, match="the annotation file of dataset 'pseudo_labels'"):
        DatasetCatalog.get("pseudo_labels")


# Checks


def test_make_image_level():
    stock = {
        "file_name": "a.jpg",
        "image_id": 3,
        "sem_seg_file_name": "a.png",
        "annotations": [{"category_id": c, "bbox": [0, 0, 1, 1]} for c in (5, 2, 5)],
    }
    assert make_image_level([stock]) == [
        {"file_name": "a.jpg", "image_id": 3, "image_labels": [2, 5]}
    ]
    assert make_image_level([{**stock, "image_labels": [4, 1]}])[0]["image_labels"] == [1, 4]


def test_make_image_level_keeps_lower_counts_when_asked():
    stock = {"file_name": "a.jpg", "annotations": [{"category_id": c} for c in (5, 2, 5, 5)]}
    assert make_image_level([stock], max_count=2) == [
        {"file_name": "a.jpg", "image_labels": [2, 5], "image_counts": [1, 3]}
    ]
    counted = {"file_name": "a.jpg", "image_labels": [4, 1], "image_counts": [9, 0]}
    assert make_image_level([counted]) == [{"file_name": "a.jpg", "image_labels": [1, 4]}]
    assert make_image_level([counted], max_count=4)[0]["image_counts"] == [0, 5]
    uncounted = {"file_name": "a.jpg", "image_labels": [4, 1]}
    assert "image_counts" not in make_image_level([uncounted], max_count=4)[0]


def test_check_image_level_dataset():
    good = {"file_name": "a.jpg", "image_labels": [0, 1]}
    check_image_level_dataset([good], ["cat", "dog"])
    with pytest.raises(UserError, match="has no image"):
        check_image_level_dataset([], ["cat"])
    with pytest.raises(UserError, match="'b.jpg' has no label"):
        check_image_level_dataset([good, {"file_name": "b.jpg", "image_labels": []}], ["a", "b"])
    with pytest.raises(UserError, match="label id 1, but the dataset has 1 classes"):
        check_image_level_dataset([good], ["cat"])


@pytest.mark.parametrize("counts", [{}, {"image_counts": [3, 0]}])
def test_check_of_counts(counts):
    dataset_dict = {"file_name": "a.jpg", "image_labels": [0, 1], **counts}
    check_image_level_dataset([dataset_dict], ["cat", "dog"])
    name = "dog" if counts else "cat"
    with pytest.raises(UserError, match=f"label '{name}' of image 'a.jpg' has no count"):
        check_image_level_dataset([dataset_dict], ["cat", "dog"], need_counts=True)
    counted = {**dataset_dict, "image_counts": [3, 1]}
    check_image_level_dataset([counted], ["cat", "dog"], need_counts=True)


def test_unlabelled_images_can_be_left_out(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    path = tmp_path / "labels.csv"
    path.write_text("file_name,labels\na.jpg,cat\nb.jpg,\n")
    with pytest.raises(UserError, match="has no labels"):
        load_image_labels_csv(str(path), str(tmp_path))
    (only,) = load_image_labels_csv(str(path), str(tmp_path), skip_unlabeled=True)
    assert only["file_name"].endswith("a.jpg")


def test_all_broken_images_are_named(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
    Image.new("RGB", (7, 5)).save(tmp_path / "b.jpg")
    paths = [str(tmp_path / name) for name in ("b.jpg", "c.jpg", "a.jpg")]
    assert read_image_sizes(paths[:1]) == [(5, 7)]
    with pytest.raises(UserError, match=r"c.jpg' cannot be read .* 1 more: '.*a.jpg'$"):
        read_image_sizes(paths)
