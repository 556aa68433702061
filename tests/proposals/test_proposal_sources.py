import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.images import read_image
from wsis_d2.proposals import (
    PROPOSAL_SOURCE_REGISTRY,
    MaskProposals,
    ProposalCache,
    build_proposal_source,
    cache,
    generate_proposals,
    hierarchical_proposals,
)

SETTINGS = {"scales": (100,), "color_spaces": ("lab",)}


def write_image(path, seed, size=(40, 48)):
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 60, dtype=np.uint8)
    y, x = rng.integers(4, 15, 2)
    image[y : y + 18, x : x + 20] = rng.integers(120, 255, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return str(path)


@pytest.fixture
def images(tmp_path):
    return [write_image(tmp_path / "images" / f"{i}.png", i) for i in range(4)]


def config(**proposals):
    cfg = get_cfg()
    add_wsis_config(cfg)
    for key, value in proposals.items():
        setattr(cfg.PROPOSALS, key, value)
    return cfg


def record(file_name, size=(40, 48)):
    return {"file_name": file_name, "image_id": 1, "height": size[0], "width": size[1]}


def test_the_cache_gives_what_the_generator_gives(tmp_path, images):
    generate_proposals(images, tmp_path / "cache", **SETTINGS)
    proposals = ProposalCache(tmp_path / "cache", SETTINGS).get(images[2])
    expected = hierarchical_proposals(np.asarray(Image.open(images[2])), **SETTINGS)
    assert len(proposals) > 0
    assert proposals.to_json() == expected.to_json()


def test_a_stopped_run_goes_on_where_it_was(tmp_path, images, monkeypatch):
    generate_proposals(images, tmp_path / "whole", **SETTINGS)
    generate_proposals(images[:2], tmp_path / "cache", **SETTINGS)
    (tmp_path / "cache" / ".0.json.gz.half").write_bytes(b"what a killed process leaves")
    calls = []

    def counted(image, **settings):
        calls.append(1)
        return hierarchical_proposals(image, **settings)

    monkeypatch.setattr(cache, "hierarchical_proposals", counted)
    generate_proposals(images, tmp_path / "cache", **SETTINGS)
    assert len(calls) == 2
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cache" / path.name).read_bytes() == path.read_bytes()


def test_other_settings_need_another_folder(tmp_path, images):
    generate_proposals(images[:1], tmp_path / "cache", **SETTINGS)
    with pytest.raises(UserError, match="other settings"):
        generate_proposals(images, tmp_path / "cache", scales=(50,))


def test_unreadable_images_are_named_and_the_others_done(tmp_path, images):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    files = [str(tmp_path / "bad.jpg"), *images, str(tmp_path / "absent.jpg")]
    with pytest.raises(UserError) as caught:
        generate_proposals(files, tmp_path / "cache", **SETTINGS)
    assert "2 of 6" in str(caught.value)
    assert "bad.jpg" in str(caught.value)
    assert "absent.jpg" in str(caught.value)
    assert len(list((tmp_path / "cache").glob("*.json.gz"))) == 4


def test_keys_tell_images_of_one_name_apart_and_survive_a_move(tmp_path):
    cat = write_image(tmp_path / "cat" / "1.png", 1)
    dog = write_image(tmp_path / "dog" / "1.png", 2)
    moved = write_image(tmp_path / "elsewhere" / "1.png", 1)
    assert cache.image_key(cat) != cache.image_key(dog)
    assert cache.image_key(cat) == cache.image_key(moved)
    strange = write_image(tmp_path / "ä b" / "c d:é.png", 1)
    assert cache.image_key(strange).startswith("c_d__-")


def test_a_damaged_entry_is_named(tmp_path, images):
    folder = ProposalCache(tmp_path / "cache", SETTINGS)
    folder.get(images[0])
    for content in (b"garbage", gzip.compress(b"{"), gzip.compress(b'{"size": [2, 2]}')):
        folder.path(images[0]).write_bytes(content)
        with pytest.raises(UserError, match=folder.path(images[0]).name):
            folder.get(images[0])


def test_a_damaged_settings_file(tmp_path):
    ProposalCache(tmp_path / "cache", SETTINGS).get(write_image(tmp_path / "a.png", 0))
    (tmp_path / "cache" / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json"):
        ProposalCache(tmp_path / "cache", SETTINGS)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="PROPOSALS.PATH"):
        ProposalCache(tmp_path / "file" / "cache", SETTINGS)


def test_exif_orientation_is_followed(tmp_path):
    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (20, 10, 3)


@pytest.mark.slow
def test_several_processes_write_what_one_does(tmp_path):
    files = [write_image(tmp_path / "images" / f"{i}.png", i) for i in range(32)]
    generate_proposals(files, tmp_path / "one", num_workers=0, **SETTINGS)
    # As a script, as a tool would: spawned processes import the main module again.
    script = (
        "import sys\n"
        "from wsis_d2.proposals import generate_proposals\n"
        "if __name__ == '__main__':\n"
        "    generate_proposals(sys.argv[2:], sys.argv[1], num_workers=2, "
        "scales=(100,), color_spaces=('lab',))\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "two"), *files]
    subprocess.run(command, check=True)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    assert len(names) == 33
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# ----------------------------------------------------------------------------------- from config


def test_builtin_makes_and_keeps_what_is_missing(tmp_path, images):
    cfg = config(PATH=str(tmp_path / "cache"), MAX_PER_IMAGE=3, MIN_AREA=0.01)
    proposals = build_proposal_source(cfg).get(record(images[0]))
    assert 0 < len(proposals) <= 3
    assert (proposals.areas >= 0.01 * 40 * 48).all()
    assert len(list((tmp_path / "cache").glob("*.json.gz"))) == 1
    # The limits are no settings of the cache.
    more = build_proposal_source(config(PATH=str(tmp_path / "cache"))).get(record(images[0]))
    assert len(more) >= len(proposals)


def test_builtin_default_settings_are_the_generators(tmp_path, images):
    source = build_proposal_source(config(PATH=str(tmp_path / "cache"), MIN_AREA=0.0))
    expected = hierarchical_proposals(np.asarray(Image.open(images[0])))
    assert source.get(record(images[0])).to_json() == expected.to_json()


def test_prepare_fills_the_cache(tmp_path, images):
    source = build_proposal_source(config(PATH=str(tmp_path / "cache")))
    source.prepare([record(file_name) for file_name in images + images])
    assert len(list((tmp_path / "cache").glob("*.json.gz"))) == 4


def test_files_by_config(tmp_path):
    mask = np.zeros((40, 48), dtype=bool)
    mask[3:20, 5:30] = True
    whole = np.ones_like(mask)
    rles = MaskProposals.from_masks(np.stack([mask, whole]), [0.6, 0.7]).masks[::-1]
    scored = [(rle, score) for rle, score in zip(rles, (0.6, 0.7))]
    (tmp_path / "r.json").write_text(
        json.dumps([{"image_id": 1, "segmentation": r, "score": s} for r, s in scored])
    )
    (tmp_path / "a.json").write_text(
        json.dumps([{"segmentation": r, "predicted_iou": s} for r, s in scored])
    )
    for source, path in (("coco_json", tmp_path / "r.json"), ("sam", tmp_path)):
        built = build_proposal_source(config(SOURCE=source, PATH=str(path)))
        built.prepare([record("a.jpg")])
        proposals = built.get(record("a.jpg"))
        np.testing.assert_array_equal(proposals.decode(), mask[None])  # whole is over MAX_AREA
        assert proposals.objectness.tolist() == pytest.approx([0.6])
    with pytest.raises(UserError, match="no proposals for image b.jpg"):
        built.get(record("b.jpg"))


def test_unknown_source_lists_the_known_ones():
    with pytest.raises(UserError, match="builtin, coco_json, mat, prompted, sam"):
        build_proposal_source(config(SOURCE="sharpmask"))


def test_others_can_register_a_source():
    class Constant:
        def read(self, file_name, image_id, size):
            return MaskProposals.from_masks(np.tri(*size, dtype=bool)[None], [0.5])

    PROPOSAL_SOURCE_REGISTRY._do_register("constant", lambda cfg: Constant())
    try:
        source = build_proposal_source(config(SOURCE="constant"))
        np.testing.assert_array_equal(
            source.get(record("a.jpg", (5, 6))).decode()[0], np.tri(5, 6, dtype=bool)
        )
    finally:
        del PROPOSAL_SOURCE_REGISTRY._obj_map["constant"]
