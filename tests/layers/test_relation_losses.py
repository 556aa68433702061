"""Losses and their gradients against loops over every pair of pixels."""

import itertools
import math

import numpy as np
import pytest
import torch

from wsis_d2.layers import affinitynet_losses, irnet_losses

IRNET_LOSSES = ("loss_bg_pos", "loss_fg_pos", "loss_neg", "loss_dp_fg", "loss_dp_bg", "total")
AFFINITYNET_LOSSES = ("loss_bg_pos", "loss_fg_pos", "loss_neg", "total")


def path(p, q):
    """Pixels of the bounding rectangle nearer than 1 to the line, those next to q first."""
    (py, px), (qy, qx) = p, q
    pixels = []
    for y in range(min(py, qy), max(py, qy) + 1):
        for x in range(min(px, qx), max(px, qx) + 1):
            area = (qy - py) * (x - px) - (qx - px) * (y - py)
            if area**2 < (qy - py) ** 2 + (qx - px) ** 2:
                pixels.append((y, x))
    return sorted(pixels, key=lambda k: (-abs(k[0] - py) - abs(k[1] - px), k[0]))


def known_pairs(seeds, radius):
    """(image, p, q, kind) for each pair that counts: p's half disk is inside, both are known."""
    num_images, height, width = seeds.shape
    pixels = list(itertools.product(range(height), range(width)))
    for n, p, q in itertools.product(range(num_images), pixels, pixels):
        (y, x), (v, u) = p, q
        half_disk_is_inside = y + radius <= height and radius - 1 <= x <= width - radius
        below_or_right = v > y or (v == y and u > x)
        if not (half_disk_is_inside and below_or_right and math.dist(p, q) < radius):
            continue
        a, b = int(seeds[n, y, x]), int(seeds[n, v, u])
        if 255 in (a, b):
            continue
        yield n, p, q, "neg" if a != b else "bg_pos" if a == 0 else "fg_pos"


def mean(values, count):
    return sum(values) / (count + 1e-5) if values else torch.zeros((), dtype=torch.float64)


def affinity_losses(affinities):
    """From {kind: affinities of its pairs}."""
    positive = {k: [-torch.log(a + 1e-5) for a in affinities[k]] for k in ("bg_pos", "fg_pos")}
    negative = [-torch.log(1 + 1e-5 - a) for a in affinities["neg"]]
    losses = {f"loss_{k}": mean(v, len(v)) for k, v in positive.items()}
    losses["loss_neg"] = mean(negative, len(negative))
    losses["total"] = losses["loss_bg_pos"] / 4 + losses["loss_fg_pos"] / 4 + losses["loss_neg"] / 2
    return losses


def irnet_losses_by_loops(boundary_logits, displacement, seeds, radius):
    boundary = boundary_logits[:, 0].sigmoid()
    affinities = {"bg_pos": [], "fg_pos": [], "neg": []}
    errors = {"bg_pos": [], "fg_pos": []}
    for n, p, q, kind in known_pairs(seeds, radius):
        # max() gives the first of equal ones, which alone takes the gradient.
        top = max(path(p, q), key=lambda k: boundary[n][k].item())
        affinities[kind].append(1 - boundary[n][top])
        if kind != "neg":
            wanted = torch.tensor([q[0] - p[0], q[1] - p[1]]) if kind == "fg_pos" else 0
            delta = displacement[n, :, p[0], p[1]] - displacement[n, :, q[0], q[1]]
            errors[kind].append((delta - wanted).abs().sum())
    losses = affinity_losses(affinities)
    losses["loss_dp_fg"] = mean(errors["fg_pos"], 2 * len(errors["fg_pos"]))
    losses["loss_dp_bg"] = mean(errors["bg_pos"], 2 * len(errors["bg_pos"]))
    losses["total"] = losses["total"] + losses["loss_dp_fg"] / 2 + losses["loss_dp_bg"] / 2
    return losses


def affinitynet_losses_by_loops(features, seeds, radius):
    affinities = {"bg_pos": [], "fg_pos": [], "neg": []}
    for n, p, q, kind in known_pairs(seeds, radius):
        distance = (features[n, :, p[0], p[1]] - features[n, :, q[0], q[1]]).abs().mean()
        affinities[kind].append(torch.exp(-distance))
    return affinity_losses(affinities)


def blocky_seeds(generator, num_images, height, width, block=3):
    """Patches of background, two classes and unknown, as seeds are."""
    size = (num_images, height // block + 1, width // block + 1)
    values = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)
    blocks = values[torch.randint(len(values), size, generator=generator)]
    seeds = blocks.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return seeds[:, :height, :width]


def check_losses_and_gradients(losses, expected, inputs, names):
    assert set(losses) == set(names)
    for name in names:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            gradients(losses[name], inputs), gradients(expected[name], inputs), rtol=1e-9, atol=1e-9
        )


def gradients(loss, inputs):
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs)]


@pytest.mark.parametrize(("radius", "height", "width"), [(2, 4, 5), (3, 3, 5), (4, 8, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_irnet_losses_equal_loops_over_pairs(radius, height, width, ties):
    g = torch.Generator().manual_seed(radius)
    logits = torch.randn(2, 1, height, width, generator=g, dtype=torch.float64)
    if ties:
        logits = logits.round()
    displacement = torch.randn(2, 2, height, width, generator=g, dtype=torch.float64)
    seeds = blocky_seeds(g, 2, height, width)
    inputs = (logits.requires_grad_(), displacement.requires_grad_())
    losses = irnet_losses(*inputs, seeds, radius)
    expected = irnet_losses_by_loops(*inputs, seeds, radius)
    assert expected["loss_neg"] > 0
    check_losses_and_gradients(losses, expected, inputs, IRNET_LOSSES)


@pytest.mark.parametrize(("radius", "height", "width"), [(2, 4, 5), (3, 3, 5), (4, 8, 9)])
def test_affinitynet_losses_equal_loops_over_pairs(radius, height, width):
    g = torch.Generator().manual_seed(radius)
    features = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64)
    seeds = blocky_seeds(g, 2, height, width)
    features.requires_grad_()
    losses = affinitynet_losses(features, seeds, radius)
    expected = affinitynet_losses_by_loops(features, seeds, radius)
    assert expected["loss_neg"] > 0
    check_losses_and_gradients(losses, expected, [features], AFFINITYNET_LOSSES)


def test_gradients_equal_finite_differences():
    g = torch.Generator().manual_seed(0)
    logits, displacement, features = (
        torch.randn(1, c, 6, 7, generator=g, dtype=torch.float64, requires_grad=True)
        for c in (1, 2, 3)
    )
    seeds = blocky_seeds(g, 1, 6, 7)
    assert torch.autograd.gradcheck(
        lambda b, d: tuple(irnet_losses(b, d, seeds, 3).values()), (logits, displacement)
    )
    assert torch.autograd.gradcheck(
        lambda f: tuple(affinitynet_losses(f, seeds, 3).values()), features
    )


@pytest.mark.parametrize(
    ("q", "maxima", "first"),
    [
        ((3, 4), "all", (3, 4)),
        ((3, 2), "all", (3, 2)),
        # The farther from p, ...
        ((1, 5), [(0, 4), (1, 4)], (1, 4)),
        ((1, 1), [(0, 2), (1, 2)], (1, 2)),
        # ... and the upper one of two that are as far.
        ((2, 5), [(0, 4), (1, 3)], (0, 4)),
        ((2, 1), [(0, 2), (1, 3)], (0, 2)),
    ],
)
def test_the_first_of_equal_maxima_takes_the_gradient(q, maxima, first):
    seeds = torch.full((1, 4, 7), 255, dtype=torch.uint8)
    seeds[0, 0, 3] = seeds[0, q[0], q[1]] = 1
    logits = torch.zeros(1, 1, 4, 7)
    for y, x in [] if maxima == "all" else maxima:
        logits[0, 0, y, x] = 1
    logits.requires_grad_()
    irnet_losses(logits, torch.zeros(1, 2, 4, 7), seeds, 4)["loss_fg_pos"].backward()
    assert logits.grad[0, 0].nonzero().tolist() == [list(first)]


@pytest.mark.parametrize("seed", [255, 0, 3])
def test_a_mean_over_no_pair_is_zero(seed):
    logits = torch.randn(2, 1, 6, 8, requires_grad=True)
    displacement = torch.randn(2, 2, 6, 8, requires_grad=True)
    features = torch.randn(2, 4, 6, 8, requires_grad=True)
    seeds = torch.full((2, 6, 8), seed, dtype=torch.uint8)
    losses = irnet_losses(logits, displacement, seeds, 4)
    affinity_losses = affinitynet_losses(features, seeds, 4)
    losses["total"].backward()
    affinity_losses["total"].backward()
    without_pairs = {
        255: ["loss_bg_pos", "loss_fg_pos", "loss_neg", "loss_dp_fg", "loss_dp_bg", "total"],
        0: ["loss_fg_pos", "loss_neg", "loss_dp_fg"],
        3: ["loss_bg_pos", "loss_neg", "loss_dp_bg"],
    }[seed]
    for name in IRNET_LOSSES:
        assert (losses[name] == 0) == (name in without_pairs)
    for name in AFFINITYNET_LOSSES:
        assert (affinity_losses[name] == 0) == (name in without_pairs)
    for x in (logits, displacement, features):
        assert x.grad.isfinite().all()
        assert (seed == 255) == (x.grad.abs().max() == 0)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_saturated_boundaries_give_finite_losses_and_gradients(value):
    logits = torch.full((1, 1, 6, 8), value, requires_grad=True)
    seeds = torch.arange(48, dtype=torch.uint8).view(1, 6, 8) // 5
    losses = irnet_losses(logits, torch.zeros(1, 2, 6, 8), seeds, 4)
    losses["total"].backward()
    assert logits.grad.isfinite().all()
    assert losses["loss_fg_pos"].item() == pytest.approx(0 if value < 0 else 11.5, abs=0.1)
    assert losses["loss_neg"].item() == pytest.approx(11.5 if value < 0 else 0, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    g = torch.Generator().manual_seed(0)
    halves = [torch.randn(2, c, 12, 14, generator=g).to(dtype) for c in (1, 2, 8)]
    seeds = blocky_seeds(g, 2, 12, 14)

    def totals_and_gradients(logits, displacement, features):
        inputs = [x.requires_grad_() for x in (logits, displacement, features)]
        totals = [
            irnet_losses(logits, displacement, seeds, 5)["total"],
            affinitynet_losses(features, seeds, 5)["total"],
        ]
        return totals, torch.autograd.grad(sum(totals), inputs)

    totals, grads = totals_and_gradients(*(x.clone() for x in halves))
    single_totals, single_grads = totals_and_gradients(*(x.float() for x in halves))
    assert totals == single_totals
    for grad, single_grad in zip(grads, single_grads):
        assert grad.dtype == dtype
        assert torch.equal(grad, single_grad.to(dtype))


def test_numpy_inputs():
    rng = np.random.default_rng(0)
    logits, displacement = (rng.normal(size=(2, c, 9, 10)).astype(np.float32) for c in (1, 2))
    seeds = rng.integers(0, 2, (2, 9, 10)).astype(np.uint8)
    losses = irnet_losses(logits, displacement, seeds, 4)
    expected = irnet_losses(*map(torch.from_numpy, (logits, displacement, seeds)), 4)
    assert losses == expected


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_radius():
    def num_saved(radius):
        sizes = []

        def count(x):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            irnet_losses(logits, displacement, seeds, radius)
        return sum(sizes)

    logits = torch.randn(1, 1, 32, 32, requires_grad=True)
    displacement = torch.randn(1, 2, 32, 32, requires_grad=True)
    seeds = torch.zeros(1, 32, 32, dtype=torch.uint8)
    assert num_saved(2) == num_saved(10) < 30 * seeds.numel()


def test_bad_shapes_are_named():
    logits, displacement = torch.zeros(2, 1, 12, 18), torch.zeros(2, 2, 12, 18)
    features, seeds = torch.zeros(2, 5, 12, 18), torch.zeros(2, 12, 18, dtype=torch.uint8)
    irnet_losses(logits[..., :9, :17], displacement[..., :9, :17], seeds[:, :9, :17], 9)
    with pytest.raises(ValueError, match="12 x 18 hold no half disk of radius 10.*10 high and 19"):
        irnet_losses(logits, displacement, seeds, 10)
    with pytest.raises(ValueError, match="12 x 18 hold no half disk of radius 10"):
        affinitynet_losses(features, seeds, 10)
    with pytest.raises(ValueError, match="boundary_logits must be .2, 1, 12, 18"):
        irnet_losses(logits[:, 0], displacement, seeds, 4)
    with pytest.raises(ValueError, match="displacement must be .2, 2, 12, 18"):
        irnet_losses(logits, displacement[..., :9], seeds, 4)
    with pytest.raises(ValueError, match="features must be .2, C, 12, 18"):
        affinitynet_losses(features[:1], seeds, 4)
    with pytest.raises(ValueError, match="seeds must be .N, H, W"):
        affinitynet_losses(features, seeds[0], 4)
