"""SAM, SAM 2 and SAM 3 with random weights: coordinates, sizes, batches, files."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsis_d2.errors import UserError
from wsis_d2.proposals import MaskPrompts, PromptedMasks, TransformersSAM
from wsis_d2.proposals.transformers_sam import load_sam

transformers = pytest.importorskip("transformers")

HEADS = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
PYRAMID = {"fpn_hidden_size": 16, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}


def prompt_encoder(image_size, patch_size):
    sizes = {"image_size": image_size, "patch_size": patch_size}
    return {"hidden_size": 16, "mask_input_channels": 8, **sizes}


def make_sam():
    vision = {
        **{"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "window_size": 4},
        **{"num_attention_heads": 2, "image_size": 64, "patch_size": 8, "num_pos_feats": 8},
        **{"global_attn_indexes": [0], "mlp_ratio": 1.0},
    }
    config = transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompt_encoder(64, 8),
        mask_decoder_config=HEADS,
    )
    square = {"height": 64, "width": 64}
    processor = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size=square)
    return transformers.SamModel(config), processor


def make_sam2():
    backbone = {
        **{"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [64, 64]},
        **{"blocks_per_stage": [1] * 4, "embed_dim_per_stage": [8, 16, 24, 32]},
        **{"num_attention_heads_per_stage": [1] * 4, "window_size_per_stage": [4, 2, 2, 2]},
        **{"global_attention_blocks": [], "mlp_ratio": 1.0},
        **{"window_positional_embedding_background_size": [4, 4]},
    }
    channels = {"backbone_channel_list": [32, 24, 16, 8]}
    config = transformers.Sam2Config(
        vision_config={"backbone_config": backbone, **channels, **PYRAMID},
        prompt_encoder_config=prompt_encoder(64, 16),
        mask_decoder_config=HEADS,
    )
    processor = transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})
    return transformers.Sam2Model(config), processor


def make_sam3():
    backbone = {
        **{"model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 16},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        **{"window_size": 2, "global_attn_indexes": [0], "pretrain_image_size": 28},
    }
    config = transformers.Sam3TrackerConfig(
        vision_config={
            **{"model_type": "sam3_vision_model", "backbone_config": backbone},
            **PYRAMID,
        },
        prompt_encoder_config=prompt_encoder(56, 14),
        mask_decoder_config=HEADS,
    )
    processor = transformers.Sam3ImageProcessor(size={"height": 56, "width": 56})
    return transformers.Sam3TrackerModel(config), processor


MAKERS = {"sam": make_sam, "sam2": make_sam2, "sam3": make_sam3}


@pytest.fixture(scope="module", params=MAKERS)
def segmenter(request):
    torch.manual_seed(0)
    network, processor = MAKERS[request.param]()
    for parameter in network.parameters():  # so random that the prompts count
        torch.nn.init.normal_(parameter, std=0.4)
    return TransformersSAM(network=network, processor=processor).eval().requires_grad_(False)


@pytest.fixture
def asked(segmenter, monkeypatch):
    """The network's keyword arguments of each call; it answers with what is put into ``answer``."""
    calls = SimpleNamespace(inputs=[], answer=None)
    forward = segmenter.network.forward

    def record(**inputs):
        calls.inputs.append(inputs)
        return calls.answer or forward(**inputs)

    monkeypatch.setattr(segmenter.network, "forward", record)
    return calls


def random_prompts(size, count, num_points=1, boxes=False, masks=False):
    rng = np.random.default_rng(1)
    points = torch.from_numpy(rng.random((count, num_points, 2)) * size).float()
    labels = torch.ones(count, num_points, dtype=torch.int64)
    labels[:, 1:] = 0
    corners = torch.from_numpy(np.sort(rng.random((count, 2, 2)), 1) * size[::-1]).float()
    maps = torch.from_numpy(rng.random((count, 9, 12))).float()
    return MaskPrompts(
        size, points, labels, corners.flatten(1) if boxes else None, maps if masks else None
    )


def random_image(size):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


SIZES = [(40, 60), (90, 50), (64, 64)]

# A rectangle of the image, as parts of its height and width.
TOP, LEFT, BOTTOM, RIGHT = 0.3, 0.5, 0.6, 0.8


def rectangle(size):
    """The rectangle in whole pixels: (y0, x0, y1, x1), and as a mask (H, W)."""
    edges = [round(part * side) for part, side in zip((TOP, LEFT, BOTTOM, RIGHT), size * 2)]
    mask = torch.zeros(size)
    mask[edges[0] : edges[2], edges[1] : edges[3]] = 1
    return edges, mask


def network_plane(segmenter, mask):
    """The mask as the network's own preprocessing shows it to the network: (h, w), 0 to 1."""

    def pixels(image):
        image = (image * 255).expand(3, -1, -1).to(torch.uint8)
        return segmenter.processor(images=image, return_tensors="pt")["pixel_values"][0, 0]

    shown = pixels(mask) - pixels(torch.zeros_like(mask))
    return shown / shown.max()


def centroid(plane):
    """(x, y) of a map's centre of mass, in cells, the centre of the first at (0, 0)."""
    plane = plane / plane.sum()
    height, width = plane.shape
    x = (plane.sum(0) * torch.arange(width)).sum()
    y = (plane.sum(1) * torch.arange(height)).sum()
    return torch.stack([x, y])


@pytest.mark.parametrize("size", SIZES)
def test_prompts_lie_where_the_network_sees_the_object(segmenter, asked, size):
    (y0, x0, y1, x1), mask = rectangle(size)
    centre = torch.tensor([[[(y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2]]])
    box = torch.tensor([[x0, y0, x1, y1]]).float()
    labels = torch.ones(1, 1, dtype=torch.int64)
    embedding = segmenter.embed(random_image(size))
    segmenter.predict(embedding, MaskPrompts(size, centre, labels, box, mask[None]))
    (inputs,) = asked.inputs
    plane = network_plane(segmenter, mask)
    seen = centroid(plane)
    assert inputs["input_points"].flatten().tolist() == pytest.approx(seen.tolist(), abs=0.1)
    assert inputs["input_labels"].tolist() == [[[1]]]
    start, end = inputs["input_boxes"].reshape(2, 2)
    assert ((start + end) / 2).tolist() == pytest.approx(seen.tolist(), abs=0.1)
    assert (end - start).prod().item() == pytest.approx(plane.sum().item(), rel=0.03)
    hint = inputs["input_masks"][0, 0].sigmoid()
    stride = plane.shape[0] / hint.shape[0]
    on_plane = (centroid((hint - hint.min()).clamp(min=0)) + 0.5) * stride - 0.5
    assert on_plane.tolist() == pytest.approx(seen.tolist(), abs=0.3)
    assert hint.max() > 0.99
    assert hint.min() < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_masks_come_back_to_where_the_network_saw_the_object(segmenter, asked, size):
    _, mask = rectangle(size)
    plane = network_plane(segmenter, mask)
    logits = F.interpolate((plane - 0.5)[None, None], scale_factor=0.5, mode="area")
    logits = torch.cat([-logits, logits, logits - 1], 1)
    scores = torch.tensor([[[0.1, 0.9, 0.2]]])
    asked.answer = SimpleNamespace(pred_masks=logits[:, None], iou_scores=scores)
    embedding = segmenter.embed(random_image(size))
    masks, found_scores = segmenter.predict(embedding, random_prompts(size, 1))
    assert masks.shape == (1, 3, *size)
    assert masks.dtype == torch.bool
    assert torch.equal(found_scores, scores[0])
    assert not masks[0, 2].any()
    assert torch.equal(masks[0, 0], ~masks[0, 1])
    expected = mask.bool()
    iou = (masks[0, 1] & expected).sum() / (masks[0, 1] | expected).sum()
    assert iou > 0.85


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("boxes", [False, True])
def test_masks_are_those_of_the_ordinary_way_through_transformers(segmenter, size, boxes):
    image, prompts = random_image(size), random_prompts(size, 3, num_points=2, boxes=boxes)
    masks, scores = segmenter.predict(segmenter.embed(image), prompts)
    inputs = segmenter.processor(images=image, return_tensors="pt")
    side = inputs["pixel_values"].shape[-1]
    padded = "reshaped_input_sizes" in inputs
    extent = inputs["reshaped_input_sizes"][0].tolist() if padded else (side, side)
    factor = torch.tensor([extent[1] / size[1], extent[0] / size[0]])
    points = (prompts.points[..., [1, 0]] + 0.5) * factor - 0.5
    arguments = {"input_boxes": prompts.boxes[None] * factor.repeat(2) - 0.5} if boxes else {}
    output = segmenter.network(
        pixel_values=inputs["pixel_values"],
        input_points=points[None],
        input_labels=prompts.labels[None],
        **arguments,
    )
    sizes = [[size], [extent]] if padded else [[size]]
    (expected,) = segmenter.processor.post_process_masks(output.pred_masks, *sizes)
    assert torch.allclose(scores, output.iou_scores[0], atol=1e-4)
    # At a threshold the last bit of a sum may decide.
    assert (masks != expected).float().mean() < 1e-3
    assert 0.02 < masks.float().mean() < 0.98


@pytest.mark.parametrize("masks", [False, True])
def test_batches_give_what_single_prompts_give(segmenter, masks):
    size = (40, 60)
    image = random_image(size)
    asked = [
        random_prompts(size, 5, num_points=3, masks=masks),
        random_prompts(size, 5, num_points=1, boxes=True, masks=masks),
        random_prompts(size, 5, num_points=0, boxes=True, masks=masks),
    ]
    asked[0].labels[:2, 2:] = -1
    embedding = segmenter.embed(image)
    together = [segmenter.predict(embedding, b) for p in asked for b in p.batches(8)]
    alone = [segmenter.predict(embedding, b) for p in asked for b in p.batches(1)]
    for of_all, of_one in zip(zip(*together), zip(*alone)):
        of_all, of_one = torch.cat(of_all).float(), torch.cat(of_one).float()
        assert of_all.shape == of_one.shape
        assert (of_all - of_one).abs().mean() < 1e-3
    scores = torch.cat([s for _, s in alone])
    assert scores.std() > 1e-3  # the prompts count


def test_mask_prompts_count(segmenter):
    size = (40, 60)
    embedding = segmenter.embed(random_image(size))
    with_masks = random_prompts(size, 2, masks=True)
    _, scores = segmenter.predict(embedding, with_masks)
    _, without = segmenter.predict(embedding, random_prompts(size, 2))
    assert (scores - without).abs().max() > 1e-4


def test_the_same_image_gives_the_same_proposals_from_one_embedding(segmenter):
    size, image = (40, 60), random_image((40, 60))
    asked = [random_prompts(size, 5), random_prompts(size, 5, boxes=True)]
    calls = []
    handle = segmenter.network.vision_encoder.register_forward_hook(lambda *a: calls.append(1))
    source = PromptedMasks(segmenter, prompts_per_batch=2, image_format="RGB")
    first = source.segment(image, asked)
    assert len(calls) == 1
    second = source.segment(image, asked)
    handle.remove()
    assert first.masks == second.masks
    assert np.array_equal(first.objectness, second.objectness)
    assert (np.diff(first.objectness) <= 0).all()


def test_a_folder_is_loaded(segmenter, tmp_path):
    segmenter.network.save_pretrained(tmp_path)
    segmenter.processor.save_pretrained(tmp_path)
    network, processor = load_sam(str(tmp_path))
    size = (40, 60)
    image, prompts = random_image(size), random_prompts(size, 2)
    again = TransformersSAM(network=network, processor=processor).eval()
    with torch.no_grad():
        masks, scores = again.predict(again.embed(image), prompts)
    expected_masks, expected = segmenter.predict(segmenter.embed(image), prompts)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert (masks != expected_masks).float().mean() < 1e-3


def test_a_folder_without_some_of_the_weights(tmp_path):
    network, processor = make_sam()
    state = network.state_dict()
    del state["mask_decoder.iou_token.weight"]
    network.save_pretrained(tmp_path, state_dict=state)
    processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks weights of the network"):
        load_sam(str(tmp_path))


def test_a_folder_of_another_network(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"PROPOSALS\.PROMPTED\.WEIGHTS"):
        load_sam(str(tmp_path))


@pytest.mark.parametrize("weights", ["", "/no/such/folder"])
def test_no_weights(weights):
    with pytest.raises(UserError, match=r"PROPOSALS\.PROMPTED\.WEIGHTS") as error:
        load_sam(weights)
    assert "\n" not in str(error.value)


def test_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install wsis_d2\[sam\]"):
        load_sam("somewhere")
