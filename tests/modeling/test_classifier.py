"""Classifiers: losses by hand, padding that does not count, learning, and clear errors."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from wsis_d2 import add_wsis_config
from wsis_d2.errors import UserError
from wsis_d2.layers import find_peaks, peak_response_maps

NAMES = ["CAMClassifier", "PRMClassifier"]


def config(name, num_classes=3):
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.merge_from_list(
        ["DEPTH", 18, "STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 8, "NORM", "BN"]
        + ["OUT_FEATURES", ["res5"], "STRIDES", [2, 2, 2, 1], "STEM_MAX_POOL", False]
    )
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = num_classes
    return cfg


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    torch.manual_seed(0)
    return build_model(config(name))


def inputs(*sizes, labels=((0,), (1, 2), (), (2,))):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "file_name": f"{i}.jpg",
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "image_labels": torch.tensor(labels[i % len(labels)], dtype=torch.int64),
        }
        for i, size in enumerate(sizes)
    ]


def normalised(model, x):
    mean = torch.tensor([103.530, 116.280, 123.675]).view(3, 1, 1)  # detectron2's default
    return (x["image"] - mean)[None]


def test_loss_is_multi_label_soft_margin(model):
    batch = inputs((40, 48), (40, 48), (40, 48))
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])
    images = torch.cat([normalised(model, x) for x in batch])
    logits = model.aggregate(model.class_response_maps(images))
    probabilities = logits.double().sigmoid()
    by_hand = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean()

    losses = model(batch)
    assert list(losses) == ["loss_cls"]
    assert losses["loss_cls"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    expected = F.multilabel_soft_margin_loss(logits, targets)
    assert losses["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixed_precision_leaves_loss_and_scores_in_full(model):
    batch = inputs((40, 48), (24, 31))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss_cls"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model.eval()(batch)[0]["image_scores"].dtype == torch.float32


def test_padding_does_not_count_in_training(model):
    batch = inputs((40, 48), (24, 31), (33, 17))
    for module in model.modules():  # the loss alone is compared: keep batch statistics out of it
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    maps = model.class_response_maps(model.preprocess(batch).tensor)
    assert maps.shape[-2:] == (5, 6)
    logits = torch.cat(
        [
            model.aggregate(maps[0:1]),
            model.aggregate(maps[1:2, :, :3, :4]),
            model.aggregate(maps[2:3, :, :5, :3]),
        ]
    )
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])
    expected = F.multilabel_soft_margin_loss(logits, targets)
    assert model(batch)["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_scores_do_not_depend_on_the_batch(model):
    model.eval()
    batch = inputs((40, 48), (24, 31), (64, 17), (24, 31))
    with torch.no_grad():
        together = model(batch)
        for x, found in zip(batch, together):
            (alone,) = model([{k: x[k] for k in ("image",)}])  # no labels needed
            assert found["image_scores"].shape == (3,)
            assert torch.allclose(found["image_scores"], alone["image_scores"], atol=1e-6)
            logits = model.aggregate(model.class_response_maps(normalised(model, x)))
            assert torch.allclose(found["image_scores"], logits[0].sigmoid(), atol=1e-6)
        same_size = model(inputs((24, 31), (24, 31)))
        (first,) = model(inputs((24, 31)))
        assert torch.allclose(same_size[0]["image_scores"], first["image_scores"], atol=1e-6)


def test_cams_are_the_evidence_that_is_pooled():
    torch.manual_seed(0)
    model = build_model(config("CAMClassifier")).eval()
    image = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        features = model.backbone(image)["res5"]
        weight = model.classifier.weight[:, :, 0, 0]
        evidence = torch.einsum("kc,nchw->nkhw", weight, features)
        assert torch.allclose(model.class_activation_maps(image), evidence.clamp(min=0), atol=1e-5)
        pooled = features.mean((2, 3)) @ weight.T
        assert torch.allclose(model.aggregate(evidence), pooled, atol=1e-5)
        maps, (found,) = model.class_activation_maps_and_features(image, ["res5"])
        assert torch.equal(maps, model.class_activation_maps(image))
        assert torch.equal(found, features)
    with pytest.raises(UserError, match="CAM.CORRELATION.FEATURES names res9, but the backbone"):
        model.class_activation_maps_and_features(image, ["res9", "res5"])


def test_prm_scores_are_means_of_upsampled_peaks():
    torch.manual_seed(0)
    model = build_model(config("PRMClassifier")).eval()
    maps = torch.randn(2, 3, 5, 6)
    upsampled = F.interpolate(maps, size=(40, 48), mode="bilinear", align_corners=True)
    scores, peaks, responses = model.stimulate(maps)
    assert torch.equal(peaks, find_peaks(upsampled, 3, "median"))
    for n in range(2):
        for c in range(3):
            values = [upsampled[i, k, y, x] for i, k, y, x in peaks.tolist() if (i, k) == (n, c)]
            assert scores[n, c].item() == pytest.approx(sum(values).item() / len(values), rel=1e-4)


@pytest.mark.parametrize(
    ("word", "threshold"), [("none", None), ("mean", "mean"), ("median", "median")]
)
def test_prm_options_come_from_the_config(word, threshold):
    cfg = config("PRMClassifier")
    cfg.MODEL.PRM.merge_from_list(["FILTER", word, "UPSAMPLE", 4, "WINDOW", 5])
    model = build_model(cfg)
    assert (model.peak_threshold, model.upsample, model.window) == (threshold, 4, 5)


def test_prm_classifier_is_a_network_for_peak_backprop():
    torch.manual_seed(0)
    model = build_model(config("PRMClassifier")).eval()
    batch = inputs((40, 48))
    with torch.no_grad():
        image = model.preprocess(batch).tensor
        _, peaks, _ = model.stimulate(model.class_response_maps(image))
        maps = peak_response_maps(model.class_response_maps, image, peaks, model.upsample)
        (scores,) = model(batch)
    assert maps.shape == (len(peaks), 40, 48)
    assert torch.allclose(maps.sum((1, 2)), torch.ones(len(peaks)), atol=1e-4)
    assert scores["image_scores"].isfinite().all()


def test_it_learns_a_few_images(model):
    # Class c is a square of colour c; 8 images with one or two of them.
    generator = torch.Generator().manual_seed(2)
    batch = []
    for i in range(8):
        image = torch.randint(100, 130, (3, 48, 48), generator=generator, dtype=torch.uint8)
        labels = sorted({i % 3, (i * i) % 3})
        for c in labels:
            y, x = torch.randint(0, 32, (2,), generator=generator).tolist()
            image[c, y : y + 16, x : x + 16] = 250
        batch.append({"image": image, "image_labels": torch.tensor(labels)})

    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        loss = model(batch)["loss_cls"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]

    model.eval()
    with torch.no_grad():
        for x, out in zip(batch, model(batch)):
            assert (out["image_scores"] > 0.5).nonzero()[:, 0].tolist() == x[
                "image_labels"
            ].tolist()


def test_backbone_parameters_are_known_by_their_prefix(model, name):
    new = {k for k, _ in model.named_parameters() if not k.startswith("backbone.")}
    expected = {"classifier.weight"} | ({"classifier.bias"} if name == "PRMClassifier" else set())
    assert new == expected
    assert not any(k.startswith("pixel") for k in model.state_dict())


def test_number_of_classes_comes_from_the_dataset(name):
    MetadataCatalog.get("test_classifier_of_four").thing_classes = ["a", "b", "c", "d"]
    cfg = config(name, num_classes=0)
    cfg.DATASETS.TRAIN = ("test_classifier_of_four",)
    try:
        assert build_model(cfg).num_classes == 4
    finally:
        MetadataCatalog.pop("test_classifier_of_four")


@pytest.mark.parametrize("train", [(), ("test_classifier_without_classes",)])
def test_unknown_number_of_classes(name, train):
    cfg = config(name, num_classes=0)
    cfg.DATASETS.TRAIN = train
    with pytest.raises(UserError, match="set MODEL.CLASSIFIER.NUM_CLASSES"):
        build_model(cfg)


def test_unknown_feature(name):
    cfg = config(name)
    cfg.MODEL.CLASSIFIER.IN_FEATURE = "res3"
    with pytest.raises(UserError, match="IN_FEATURE is 'res3', but the backbone gives res5"):
        build_model(cfg)


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_that_is_no_class_names_the_file(model, wrong):
    batch = inputs((24, 24), (24, 24))
    batch[1]["image_labels"] = torch.tensor([0, wrong])
    with pytest.raises(UserError, match=f"1.jpg has the class id {wrong}, but the model has 3"):
        model(batch)


def test_an_image_without_labels_names_the_file(model):
    batch = inputs((24, 24), (24, 24))
    del batch[1]["image_labels"]
    with pytest.raises(UserError, match="1.jpg came to training without 'image_labels'"):
        model(batch)
