"""Learning rates: multipliers per part of the model, and the schedules against their formulas."""

import math

import pytest
import torch
from detectron2.config import get_cfg

from wsis_d2 import add_wsis_config
from wsis_d2.engine.solver import build_lr_scheduler, build_optimizer, limit_epochs
from wsis_d2.errors import UserError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_wsis_config(cfg)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.WARMUP_ITERS = 0
    return cfg


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        self.classifier = torch.nn.Conv2d(4, 2, 1)


def _learning_rates(cfg, steps):
    optimizer = build_optimizer(cfg, Net())
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_multipliers_and_decay_per_part(cfg, name):
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.HEAD_MULTIPLIER = 0.01, 10.0
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.05, 0.0
    net = Net()
    optimizer = build_optimizer(cfg, net)
    by_parameter = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(by_parameter) == len(list(net.parameters()))
    assert by_parameter[id(net.backbone[0].weight)]["lr"] == pytest.approx(0.001)
    assert by_parameter[id(net.backbone[0].weight)]["weight_decay"] == 0.05
    assert by_parameter[id(net.backbone[1].weight)]["weight_decay"] == 0.0
    assert by_parameter[id(net.classifier.weight)]["lr"] == pytest.approx(1.0)


@pytest.mark.parametrize("network", ["bottom_up", "net"])  # of FPN, of SimpleFeaturePyramid
def test_a_pyramids_own_layers_are_new_to_the_task(cfg, network):
    cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.HEAD_MULTIPLIER = 0.01, 10.0
    net = Net()
    trained = net.backbone
    net.backbone = torch.nn.ModuleDict({network: trained, "fpn_lateral2": torch.nn.Conv2d(4, 2, 1)})
    optimizer = build_optimizer(cfg, net)
    by_parameter = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(by_parameter) == len(list(net.parameters()))
    assert by_parameter[id(trained[0].weight)]["lr"] == pytest.approx(0.001)
    assert by_parameter[id(net.backbone["fpn_lateral2"].weight)]["lr"] == pytest.approx(1.0)
    assert by_parameter[id(net.classifier.weight)]["lr"] == pytest.approx(1.0)


def test_embeddings_have_a_decay_of_their_own(cfg):
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.05, 0.01
    net = Net()
    net.queries = torch.nn.Embedding(3, 4)
    optimizer = build_optimizer(cfg, net)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decays) == len(list(net.parameters()))
    assert decays[id(net.queries.weight)] == 0.01
    assert decays[id(net.classifier.weight)] == 0.05


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_clipping_by_the_norm_of_the_whole_model(cfg, name):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    cfg.SOLVER.OPTIMIZER = name
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE = True, "full_model", 0.5, 2.0
    net = Net()
    optimizer = build_optimizer(cfg, net)
    gradients = [torch.randn_like(p) for p in net.parameters()]
    length = math.sqrt(sum((g**2).sum().item() for g in gradients))
    for factor, scale in ((1.0, 0.5 / length), (0.1 / length, 0.1 / length)):
        for parameter, gradient in zip(net.parameters(), gradients):
            parameter.grad = factor * gradient
        optimizer.step()
        for parameter, gradient in zip(net.parameters(), gradients):
            assert torch.allclose(parameter.grad, scale * gradient, rtol=1e-4)


def test_frozen_parameters_are_left_out(cfg):
    net = Net()
    net.backbone.requires_grad_(False)
    optimizer = build_optimizer(cfg, net)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 2


def test_unknown_optimizer_is_named(cfg):
    cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(UserError, match="'Adam'"):
        build_optimizer(cfg, Net())


def test_poly_schedule(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    expected = [0.1 * (1 - i / 10) ** 0.9 for i in range(10)]
    assert _learning_rates(cfg, 10) == pytest.approx(expected)


def test_one_cycle_schedule(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "OneCycleLR"
    cfg.SOLVER.ONE_CYCLE_WARMUP = 0.5
    rates = _learning_rates(cfg, 10)
    rise = [0.1 * (1 / 25 + (1 - 1 / 25) * i / 5) for i in range(5)]
    fall = [0.05 * (1 + math.cos(math.pi * i / 5)) for i in range(5)]
    assert rates == pytest.approx(rise + fall)


def test_stock_schedules_are_detectron2s(cfg):
    cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA = (5,), 0.1
    assert _learning_rates(cfg, 10) == pytest.approx([0.1] * 5 + [0.01] * 5)


def test_few_images_are_seen_no_more_than_max_epochs_times(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 1200, (600, 900)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_EPOCHS = 4, 24
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.CHECKPOINT_PERIOD = 100, 200
    cfg.TEST.EVAL_PERIOD = 400
    cfg.freeze()
    scaled = limit_epochs(cfg, 50)
    assert scaled.is_frozen()
    assert (scaled.SOLVER.MAX_ITER, scaled.SOLVER.STEPS) == (300, (150, 225))
    assert (scaled.SOLVER.WARMUP_ITERS, scaled.SOLVER.CHECKPOINT_PERIOD) == (25, 50)
    assert scaled.TEST.EVAL_PERIOD == 100
    assert cfg.SOLVER.MAX_ITER == 1200


def test_the_last_epoch_is_whole_and_nothing_becomes_never(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 1000, 10
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_EPOCHS = 16, 1
    cfg.TEST.EVAL_PERIOD = 10
    scaled = limit_epochs(cfg, 17)
    assert not scaled.is_frozen()
    assert scaled.SOLVER.MAX_ITER == 2
    assert scaled.SOLVER.CHECKPOINT_PERIOD == scaled.TEST.EVAL_PERIOD == 1


@pytest.mark.parametrize(("epochs", "images"), [(0, 5), (24, 200), (24, 5000), (24, None)])
def test_else_the_iterations_stay(cfg, epochs, images):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 1200, 4
    cfg.SOLVER.MAX_EPOCHS = epochs
    assert limit_epochs(cfg, images) is cfg
