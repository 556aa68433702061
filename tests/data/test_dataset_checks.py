import cv2
import numpy as np
import pytest
from PIL import Image

from wsis_d2.data import check_registered_datasets
from wsis_d2.data.dataset_checks import (
    MAX_DIFFERING_BITS,
    MIN_IMAGES_OF_CLASS,
    ImageFacts,
    check_datasets,
    difference_hash,
    examine_image,
)

CLASSES = ("cat", "dog", "sofa")


def dicts(*label_sets, split="train"):
    return [
        {"file_name": f"{split}{i}.jpg", "image_labels": list(labels)}
        for i, labels in enumerate(label_sets)
    ]


def facts(dataset_dicts, **changes):
    """Good images that are all different; ``changes`` are of the first."""
    found = []
    for d in dataset_dicts:
        digest = d["file_name"]
        look = int.from_bytes(digest.encode().ljust(8, b"\x55")[-8:], "big") * 0x9E3779B97F4A7C15
        values = {"height": 300, "width": 400, "digest": digest, "look": look % 2**64}
        found.append(ImageFacts(d["file_name"], **{**values, **(changes if not found else {})}))
    return found


def findings(train, val=(), train_facts=None, val_facts=None, classes=CLASSES):
    train_facts = facts(train) if train_facts is None else train_facts
    val_facts = facts(val) if val_facts is None else val_facts
    report = check_datasets(train, train_facts, val, val_facts, classes)
    return {f.what: f for f in report.findings}, report


def good_train():
    n = MIN_IMAGES_OF_CLASS
    return dicts(*[[0]] * n, *[[1]] * n, *[[2]] * n, [0, 2])


def test_good_data_has_no_findings():
    found, report = findings(good_train(), dicts([0], [1], [2], split="val"))
    assert not found
    assert not report.has_errors
    assert report.train_images == (21, 20, 21)
    assert report.alone == (20, 20, 20)
    assert report.val_images == (1, 1, 1)
    assert report.companions == (("sofa", 1 / 21), ("", 0.0), ("cat", 1 / 21))
    assert "nothing found" in str(report)


def test_labels_that_cannot_be_told_apart():
    n = MIN_IMAGES_OF_CLASS
    found, report = findings(dicts(*[[0, 2]] * n, *[[1]] * 3, *[[0, 1]] * 25))
    assert found["classes nearly always beside the same other one"].examples == ("sofa with cat",)
    assert found["classes on no image alone"].examples == ("cat",)  # sofa is named already
    assert found["classes on nearly every image"].examples == ("cat",)
    assert not report.has_errors


def test_rare_and_absent_classes():
    found, report = findings(dicts(*[[0]] * 30, [1]))
    assert found["classes without any training image"].examples == ("sofa",)
    assert found[f"classes of fewer than {MIN_IMAGES_OF_CLASS} images"].examples == ("dog 1",)
    assert report.has_errors
    assert str(report).index("error: ") < str(report).index("advice: ")


def test_one_class_cannot_be_learnt():
    found, report = findings(dicts(*[[0]] * 30), classes=("cat",))
    assert found["classes on nearly every image"].is_error
    assert report.has_errors


def test_splits_of_other_classes():
    found, _ = findings(good_train(), dicts([0], [1], split="val"))
    assert found["classes in training but not in validation"].examples == ("sofa",)
    found, _ = findings(good_train(), dicts([0], [1], [2], split="val"), classes=(*CLASSES, "cow"))
    assert "classes in validation but not in training" not in found
    train = [d for d in good_train() if d["image_labels"] != [1]]
    found, _ = findings(train, dicts([0], [1], [2], split="val"))
    assert found["classes in validation but not in training"].examples == ("dog",)
    # Images to evaluate on may be without labels.
    assert not findings(good_train(), [{"file_name": "a.jpg"}], val_facts=[])[0]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"height": 95, "width": 200}, "images with a side below 96 pixels"),
        ({"height": 6000, "width": 4001}, "images of more than 24 megapixels"),
        ({"width": 1201}, "images more than 4 times as long as wide"),
        ({"height": 1601}, "images more than 4 times as long as wide"),
    ],
)
def test_odd_sizes(changes, what):
    train = good_train()
    found, report = findings(train, train_facts=facts(train, **changes))
    assert set(found) == {what}
    assert found[what].examples == ("train0.jpg",)
    assert not report.has_errors


def test_copies_within_a_split_and_across():
    train, val = good_train(), dicts([0], [1], [2], split="val")
    train_facts, val_facts = facts(train), facts(val)
    same = ImageFacts("train1.jpg", "", 300, 400, "train0.jpg", train_facts[0].look)
    flipped = train_facts[2].look ^ (1 | 1 << 20 | 1 << 63)
    assert MAX_DIFFERING_BITS == 3
    similar = ImageFacts("val0.jpg", "", 300, 400, "val0.jpg", flipped)
    other = ImageFacts("val1.jpg", "", 300, 400, "val1.jpg", train_facts[3].look ^ 0b1111)
    train_facts[1], val_facts[:2] = same, [similar, other]
    found, _ = findings(train, val, train_facts, val_facts)
    assert {what: f.examples for what, f in found.items()} == {
        "pairs of images that are the same file": ("train0.jpg = train1.jpg",),
        "images of training and validation that are nearly the same picture": (
            "train2.jpg = val0.jpg",
        ),
    }


def test_one_file_in_both_splits_is_a_leak():
    train = good_train()
    found, _ = findings(train, [train[0], *dicts([1], [2], split="val")])
    (finding,) = found.values()
    assert finding.what == "images of training and validation that are the same file"
    assert finding.examples == ("train0.jpg = train0.jpg",)


def test_pictures_without_detail_are_not_alike():
    train = good_train()
    blank = [ImageFacts(f"{i}.png", "", 300, 400, f"{i}", 0) for i in range(len(train))]
    assert not findings(train, train_facts=blank)[0]


def test_hash_survives_scaling_and_recompression_and_tells_pictures_apart():
    rng = np.random.default_rng(0)
    pictures = [
        cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (400, 300)) for _ in range(2)
    ]
    smaller = cv2.resize(pictures[0], (320, 240), interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
    first, second, copy = map(difference_hash, (*pictures, coded))
    assert (first ^ copy).bit_count() <= MAX_DIFFERING_BITS
    assert (first ^ second).bit_count() > 10
    # By hand: bit 63 is the pair of columns at the upper left.
    ramp = np.repeat(np.arange(9, 0, -1, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2) * 20
    assert difference_hash(ramp) == 2**64 - 1
    ramp[0, 0] = 0
    assert difference_hash(ramp) == 2**63 - 1


def test_images_are_examined_upright_and_faults_are_kept(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, exif=exif)
    fact = examine_image(str(path))
    assert (fact.height, fact.width, fact.error, fact.look) == (60, 40, "", 0)
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read" in examine_image(str(path)).error
    assert "is absent" in examine_image(str(tmp_path / "b.jpg")).error


def test_nothing_to_train_on():
    assert check_registered_datasets(()).class_names == ()


def test_tool_says_what_it_found(run_tool, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            picture = rng.integers(0, 255, (100, 120, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{i}.jpg")
    output = tmp_path / "found.json"
    result = run_tool("check_dataset.py", "--photos", tmp_path, "--output", output)
    assert result.returncode == 0, result.stderr
    assert "advice: classes of fewer than 20 images (2): cat 2, dog 2" in result.stdout
    assert '"train_images": [\n    2,\n    2\n  ]' in output.read_text()

    broken = tmp_path / "cat" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:1000])  # its header is still there
    result = run_tool("check_dataset.py", "--photos", tmp_path)
    assert result.returncode == 1
    assert "error: images that cannot be read (1): image '" in result.stdout

    result = run_tool("check_dataset.py", "--photos", tmp_path / "none")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
