"""Grounding DINO, OWLv2 and OWL-ViT with random weights: coordinates, texts, files."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from random_detectors import MAKERS, make_detector, save_detector

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.labeling import TransformersDetector

pytest.importorskip("transformers")

SIZES = [(40, 60), (90, 50), (64, 64), (200, 70)]
TEXTS = ["cat", "potted plant", "sheep"]


@pytest.fixture(scope="module", params=MAKERS)
def detector(request, tmp_path_factory):
    network, processor = make_detector(request.param, tmp_path_factory.mktemp("tokenizer"))
    return TransformersDetector(network=network, processor=processor).eval()


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory):
    network, processor = make_detector("grounding_dino", tmp_path_factory.mktemp("tokenizer"))
    return TransformersDetector(network=network, processor=processor).eval()


def random_image(size):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def reads_together(detector):
    """Whether a network sees all texts at once, which OWL does not."""
    return detector.family.endswith("grounding-dino")


@torch.no_grad()
def detect(detector, *args):
    return detector.detect(*args)


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_in_pixels_of_the_image(detector, size, monkeypatch):
    """The network is replaced by one that finds the bright rectangle in the input that it gets."""
    top, left, bottom, right = (round(f * side) for f, side in zip((0.3, 0.5, 0.6, 0.9), size * 2))
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255

    def see(pixel_values, **inputs):
        bright = pixel_values[0, 0]
        bright = (bright > (bright.min() + bright.max()) / 2).numpy()
        (rows,), (columns,) = bright.any(1).nonzero(), bright.any(0).nonzero()
        y, x = (np.array([index[0], index[-1] + 1]) / side
                for index, side in zip((rows, columns), bright.shape))  # fmt: skip
        box = [x.mean(), y.mean(), x[1] - x[0], y[1] - y[0]]
        return SimpleNamespace(pred_boxes=torch.tensor([[box]]), logits=torch.zeros(1, 1, 40))

    monkeypatch.setattr(detector.network, "forward", see)
    boxes, _ = detect(detector, image, ["cat"])
    # A pixel of the network's input is so many of the image's.
    tolerance = 1 + max(size) / 64
    assert boxes[0].numpy() == pytest.approx([left, top, right, bottom], abs=tolerance)


@pytest.mark.parametrize("size", SIZES[:2])
def test_boxes_are_those_of_the_processor(detector, size):
    image = random_image(size)
    boxes, scores = detect(detector, image, TEXTS)
    text = TEXTS if reads_together(detector) else [f"a photo of a {t}" for t in TEXTS]
    padding = {} if reads_together(detector) else {"padding": "max_length"}
    inputs = detector.processor(
        images=image,
        text=[text],
        input_data_format="channels_first",
        return_tensors="pt",
        **padding,
    )
    with torch.no_grad():
        output = detector.network(**inputs)
    (expected,) = detector.processor.post_process_grounded_object_detection(
        output, threshold=0.0, target_sizes=[size]
    )
    assert torch.allclose(boxes, expected["boxes"], atol=1e-3)
    assert scores.shape == (len(boxes), len(TEXTS))
    assert ((scores >= 0) & (scores <= 1)).all()
    if not reads_together(detector):  # where it is the best token's
        assert torch.allclose(scores.amax(1), expected["scores"], atol=1e-5)
        assert torch.equal(scores.argmax(1), expected["labels"])


def test_a_text_of_grounding_dino_scores_as_its_tokens_do_on_average(grounding_dino, monkeypatch):
    tokens = {}

    def answer(pixel_values, input_ids, **inputs):
        tokens["all"] = grounding_dino.processor.tokenizer.convert_ids_to_tokens(input_ids[0])
        logits = torch.full((1, 2, 40), float("-inf"))
        logits[0, :, : input_ids.shape[1]] = torch.arange(2 * input_ids.shape[1]).view(2, -1) / 10
        return SimpleNamespace(pred_boxes=torch.rand(1, 2, 4), logits=logits)

    monkeypatch.setattr(grounding_dino.network, "forward", answer)
    _, scores = detect(grounding_dino, random_image((40, 60)), ["Potted plant", "St. Ox?", "cat"])
    assert tokens["all"] == [
        *("[CLS]", "potted", "plant", ".", "s", "##t", "o", "##x", ".", "cat", ".", "[SEP]")
    ]
    of_tokens = (torch.arange(24).view(2, 12) / 10).sigmoid()
    expected = [of_tokens[:, 1:3].mean(1), of_tokens[:, 4:8].mean(1), of_tokens[:, 9]]
    assert torch.allclose(scores, torch.stack(expected, 1))


def test_more_texts_than_grounding_dino_has_room_for(grounding_dino):
    assert not grounding_dino.texts_are_independent
    image = random_image((40, 60))
    texts = ["cat", "dog", "abcdefghijklmnopqrst", "sheep", "uvwxyzuvwxyzuvwxyz"]
    boxes, scores = detect(grounding_dino, image, texts)
    parts = [texts[:4], texts[4:]]  # of 40 tokens: 2 at the ends, 2 + 2 + 21 + 2; 19
    alone = [detect(grounding_dino, image, part) for part in parts]
    assert torch.allclose(boxes, torch.cat([b for b, _ in alone]))
    assert torch.allclose(scores, torch.block_diag(*[s for _, s in alone]))
    # A text that is longer than all the room is cut.
    _, scores = detect(grounding_dino, image, ["a" * 60, "cat"])
    assert (scores.amax(0) > 0).all()


def test_texts_of_owl_do_not_know_of_each_other(detector):
    if reads_together(detector):
        pytest.skip("Grounding DINO's do")
    assert detector.texts_are_independent
    image = random_image((40, 60))
    boxes, scores = detect(detector, image, TEXTS)
    for i, text in enumerate(TEXTS):
        alone, of_text = detect(detector, image, [text])
        assert torch.allclose(alone, boxes, atol=1e-4)
        assert torch.allclose(of_text[:, 0], scores[:, i], atol=1e-5)
    assert (scores.amax(0) - scores.amin(0)).min() > 0
    assert len({round(float(score), 4) for score in scores[0]}) == len(TEXTS)


def config(weights):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.PSEUDO_LABELS.TEXT_BOXES.WEIGHTS = weights
    return cfg


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_is_loaded(name, tmp_path):
    (tmp_path / "again").mkdir()
    network, processor = make_detector(name, tmp_path / "again")
    detector = TransformersDetector(config(save_detector(name, tmp_path))).eval()
    image = random_image((40, 60))
    expected = TransformersDetector(network=network, processor=processor)
    for found, right in zip(detect(detector, image, TEXTS), detect(expected, image, TEXTS)):
        assert torch.allclose(found, right, atol=1e-3)


def test_half_precision_is_stored_alone(tmp_path):
    network, processor = make_detector("owlv2", tmp_path)
    network.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    boxes, scores = detect(TransformersDetector(config(str(tmp_path))), random_image((9, 9)), TEXTS)
    assert boxes.dtype == scores.dtype == torch.float32
    assert (scores > 0).all()


def test_a_folder_without_some_of_the_weights(tmp_path):
    network, processor = make_detector("owlv2", tmp_path)
    state = network.state_dict()
    del state["class_head.dense0.weight"]
    network.save_pretrained(tmp_path, state_dict=state)
    processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks weights of the network"):
        TransformersDetector(config(str(tmp_path)))


@pytest.mark.parametrize("weights", ["", "/no/such/folder"])
def test_no_weights(weights):
    with pytest.raises(UserError, match=r"set PSEUDO_LABELS\.TEXT_BOXES\.WEIGHTS") as error:
        TransformersDetector(config(weights))
    assert "\n" not in str(error.value)


def test_another_network():
    network = SimpleNamespace(config=SimpleNamespace(model_type="omdet-turbo"))
    with pytest.raises(UserError, match="'omdet-turbo': choose one of grounding-dino"):
        TransformersDetector(network=network, processor=None)


def test_transformers_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install wsis_d2\[sam\]"):
        TransformersDetector(config("somewhere"))
